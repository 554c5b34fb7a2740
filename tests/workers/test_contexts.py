"""Each attempt runs in a context of its own: what it sets is not there for the next one, whatever its kind.

What the file's import and `setup()` have set is there for all of them.
"""

from __future__ import annotations

import pytest
import workers_kit as kit

CODE = """
    import asyncio, decimal
    from contextvars import ContextVar

    mark = ContextVar("mark", default="none")
    imported = ContextVar("imported", default="none")
    given = ContextVar("given", default="none")
    imported.set("by the import")

    def setup():
        assert mark.get() == "none"
        print("setting up")
        given.set("by setup")
        decimal.getcontext().prec = 11

    def teardown():
        with open(PATH, "a") as file:
            file.write(given.get() + "\\n")

    def seen():
        found = [mark.get(), imported.get(), given.get(), decimal.getcontext().prec]
        mark.set("left behind")
        imported.set("left behind")
        given.set("left behind")
        decimal.getcontext().prec = 4
        decimal.getcontext().traps[decimal.Inexact] = True
        return found

    def plain(event):
        return seen()

    def fails(event):
        raise ValueError(repr(seen()))

    def told_late(event):
        class Late(Exception):
            def __str__(self):
                return repr(seen())
        raise Late

    def generates(event):
        first = seen()
        yield first
        yield [mark.get(), decimal.getcontext().prec]
        return mark.get()

    async def awaits(event):
        found = seen()
        await asyncio.sleep(0)
        assert mark.get() == "left behind"
        return found

    async def generates_async(event):
        yield seen()
        await asyncio.sleep(0)
        yield [mark.get(), decimal.getcontext().prec]

    def wrapped(event):
        return awaits(event)
"""

ASYNC_SETUP = """
    from contextvars import ContextVar
    given = ContextVar("given", default="none")

    async def setup():
        given.set("by an async setup")

    def plain(event):
        found = given.get()
        given.set("left behind")
        return found

    async def awaits(event):
        return plain(event)
"""

FRESH = b'["none","by the import","by setup",11]'


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("handlers")
    kit.write(folder, t=CODE.replace("PATH", repr(str(folder / "torn"))), a=ASYNC_SETUP)
    return folder


@pytest.fixture(scope="module")
def drive(folder):
    shared = kit.Shared(folder)
    yield shared.drive
    shared.close()


@pytest.mark.parametrize("target", ["plain", "awaits", "wrapped"])
def test_what_an_attempt_sets_is_not_there_for_the_next(drive, pool, target):
    async def scenario(bench):
        for _ in range(8):
            assert (await bench.run(f"t:{target}")).data == FRESH

    drive(scenario, pool)


@pytest.mark.parametrize("target", ["generates", "generates_async"])
def test_all_steps_of_a_generator_share_a_context(drive, pool, target):
    async def scenario(bench):
        for _ in range(4):
            token = bench.hand(f"t:{target}")
            ended = await bench.end(token)
            assert [partial.data for partial in bench.partials(token)] == [FRESH, b'["left behind",4]']
            assert ended.data == (b'"left behind"' if target == "generates" else b"null")

    drive(scenario, pool)


@pytest.mark.parametrize("target", ["fails", "told_late"])
def test_a_failure_is_told_in_the_context_of_its_attempt(drive, pool, target):
    async def scenario(bench):
        for _ in range(4):
            error = (await bench.run(f"t:{target}")).error
            assert error.message == "['none', 'by the import', 'by setup', 11]"

    drive(scenario, pool)


@pytest.mark.parametrize("target", ["plain", "awaits"])
def test_what_an_async_setup_sets_is_there(drive, pool, target):
    async def scenario(bench):
        for _ in range(4):
            assert (await bench.run(f"a:{target}")).data == b'"by an async setup"'

    drive(scenario, pool)


@pytest.mark.parametrize("target", ["plain", "awaits"])
def test_the_output_of_setup_is_in_the_log_of_the_attempt_that_needed_it(folder, pool, target):
    async def scenario(bench):
        assert (await bench.run(f"t:{target}")).log == "setting up\n"
        assert (await bench.run(f"t:{target}")).log is None
        await bench.supervisor.drain(kit.PATIENCE)
        assert (folder / "torn").read_text().splitlines()[-1] == "by setup", "teardown() sees it, too"

    (folder / "torn").unlink(missing_ok=True)
    kit.drive(scenario, folder, pool, processes=1)
