"""New code takes over from old: while others run, after a zygote's death, in executed workers."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time

import psutil
import pytest
import workers_kit as kit
from busway.domain.run import Outcome
from busway.gateway import handler_code
from busway.gateway.dispatch.registry import Registry
from busway.gateway.executors.port import Ended, Returned
from busway.gateway.nodes.alone import Alone
from busway.gateway.settings import Settings

VERSION = """
    import os, time
    VERSION = {0}
    def version(event): return VERSION
    def sleeps(event):
        time.sleep(event.data)
        return VERSION
    def waits_for(event):
        while not os.path.exists(event.data):
            time.sleep(0.005)
        return VERSION
    def hangs(event): time.sleep(1000)
"""
TWO = ["process", "thread"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "handlers").mkdir()
    put(tmp_path / "handlers", 1)
    return tmp_path / "handlers"


@pytest.fixture
def sign(tmp_path):
    """A file for which handlers wait; not there yet."""
    return tmp_path / "sign"


def put(folder, version):
    kit.write(folder, f=VERSION.format(version))


def drive(scenario, folder, pool="process", **options):
    """Run a scenario that is also given the catalogs that were handed up."""
    told = []

    async def on_catalog(catalog):
        told.append(catalog)

    async def with_catalogs(bench):
        await scenario(bench, told)

    kit.drive(with_catalogs, folder, pool, on_catalog=on_catalog, **{"reload": True, **options})


async def version(bench, wanted):
    while (await bench.run("f:version")).data != wanted:
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("pool", TWO)
def test_a_changed_file_is_loaded_again_and_told_before_anything_runs_it(folder, pool):
    async def scenario(bench, told):
        for number in range(2, 5):
            put(folder, number)
            await bench.until(lambda number=number: len(told) == number - 1)
            assert (await bench.run("f:version")).data == str(number).encode()
        digests = [catalog[0].digest for catalog in [bench.catalog, *told]]
        assert len(set(digests)) == 4

    drive(scenario, folder, pool)


@pytest.mark.parametrize("pool", TWO)
def test_what_runs_finishes_with_the_code_that_it_began_with(folder, pool, sign):
    async def scenario(bench, told):
        zygote, token = bench.zygote(), bench.hand("f:waits_for", str(sign))
        old = (await bench.started(token)).worker
        put(folder, 2)
        await version(bench, b"2")
        sign.touch()
        ended = await bench.end(token)
        assert (ended.outcome, ended.data, ended.worker) == (Outcome.SUCCEEDED, b"1", old)
        await bench.until(lambda: not psutil.pid_exists(old))
        await bench.until(lambda: not psutil.pid_exists(zygote))

    drive(scenario, folder, pool, processes=1)


def test_a_limit_holds_for_what_runs_on_in_old_workers(folder):
    async def scenario(bench, told):
        token = bench.hand("f:hangs", timeout=2.0)
        await bench.started(token)
        put(folder, 2)
        await version(bench, b"2")
        ended = await bench.end(token)
        assert ended.error.type == "Timeout"
        await bench.until(lambda: not psutil.pid_exists(ended.worker))

    drive(scenario, folder)


def test_an_old_worker_can_be_cancelled_and_can_die_without_harm(folder):
    async def scenario(bench, told):
        tokens = [bench.hand("f:hangs", timeout=600) for _ in range(2)]
        pids = [(await bench.started(token)).worker for token in tokens]
        put(folder, 2)
        await version(bench, b"2")
        bench.supervisor.cancel(tokens[0])
        os.kill(pids[1], signal.SIGSEGV)
        assert (await bench.end(tokens[1])).error.message == "killed by SIGSEGV"
        await bench.until(lambda: not any(psutil.pid_exists(pid) for pid in pids))
        assert (await bench.run("f:version")).data == b"2"

    drive(scenario, folder)


def test_nothing_starts_while_the_registry_is_told(folder, sign):
    gate, entered = asyncio.Event(), asyncio.Event()

    async def on_catalog(catalog):
        entered.set()
        await gate.wait()

    async def scenario(bench):
        running = bench.hand("f:waits_for", str(sign))
        await bench.started(running)
        put(folder, 2)
        await entered.wait()
        token = bench.hand("f:version")
        assert len(bench.waiting) == 1
        sign.touch()
        assert (await bench.end(running)).data == b"1"
        assert bench.reports(token, Ended) == []
        gate.set()
        assert (await bench.end(token)).data == b"2"

    kit.drive(scenario, folder, reload=True, on_catalog=on_catalog)


def test_changed_files_are_declared_again_until_that_works(folder, monkeypatch):
    monkeypatch.setattr(handler_code, "AGAIN", 0.05)
    tries = []

    class FullDisk:
        async def declare(self, catalog):
            tries.append(catalog)
            if len(tries) == 1:
                raise OSError("the disk is full")

    async def scenario():
        async with kit.bench(folder, reload=True, follow=False) as bench:
            nodes = Alone("here", time.time_ns)
            nodes.leads = True
            code = handler_code.HandlerCode(
                Settings(handlers=folder), nodes, Registry(), FullDisk(), bench.supervisor, print, None, None
            )  # nobody follows its files: it stores no source
            task = asyncio.create_task(code.follow_folder())
            put(folder, 2)
            await bench.until(lambda: len(tries) == 2)
            assert (await bench.run("f:version")).data == b"2"
            task.cancel()

    asyncio.run(scenario())


@pytest.mark.long
def test_a_file_that_hung_is_tried_again_when_it_has_changed(folder):
    async def scenario(bench, told):
        assert "did not end within" in bench.catalog[0].error
        kit.write(folder, other="def f(event): return 1")
        await bench.until(lambda: len(told) == 1)
        assert "did not end within" in told[0][0].error
        put(folder, 3)
        await bench.until(lambda: len(told) == 2)
        assert (await bench.run("f:version")).data == b"3"

    kit.write(folder, f="import time\ntime.sleep(1000)")
    drive(scenario, folder, import_timeout=3.0)


def test_a_file_that_breaks_and_one_that_goes_are_told(folder):
    async def scenario(bench, told):
        kit.write(folder, f="1 / 0", g="def f(event): return 1")
        await bench.until(lambda: told)
        assert "ZeroDivisionError" in told[-1][0].error
        (folder / "f.py").unlink()
        await bench.until(lambda: [f.file for f in told[-1]] == ["g.py"])
        assert (await bench.run("g:f")).data == b"1"

    drive(scenario, folder)


def test_a_change_of_what_handler_files_import_is_loaded_too(folder):
    async def scenario(bench, told):
        assert (await bench.run("g:f")).data == b"1"
        (folder / "_own.py").write_text("VALUE = 2")
        (folder / "package" / "inner.py").write_text("VALUE = 3")
        while (await bench.run("g:f")).data != b"5":
            await asyncio.sleep(0.02)

    (folder / "_own.py").write_text("VALUE = 1")
    (folder / "package").mkdir()
    (folder / "package" / "inner.py").write_text("VALUE = 0")
    kit.write(
        folder, g="import _own\nfrom package import inner\ndef f(event): return _own.VALUE + inner.VALUE"
    )
    drive(scenario, folder)


def test_two_versions_saved_within_a_second_with_the_same_size_are_told_apart(folder):
    async def scenario(bench, told):
        zygote = bench.zygote()
        put(folder, 2)
        os.utime(folder / "f.py", ns=stamped)
        os.kill(zygote, signal.SIGKILL)
        await bench.until(lambda: bench.zygote() not in (None, zygote))
        await version(bench, b"2")

    about = (folder / "f.py").stat()
    stamped = (about.st_atime_ns, about.st_mtime_ns + 1)
    drive(scenario, folder, reload=False)
    assert not (folder / "__pycache__").exists()


@pytest.mark.fault
@pytest.mark.parametrize("pool", TWO)
def test_without_reload_code_stays_until_the_zygote_dies_and_then_it_is_told(folder, pool):
    async def scenario(bench, told):
        put(folder, 2)
        killed = set(bench.pids())
        for worker in killed:
            os.kill(worker, signal.SIGKILL)
        await bench.until(lambda: bench.pids() and killed.isdisjoint(bench.pids()))
        assert (await bench.run("f:version")).data == b"1"
        assert told == []
        os.kill(bench.zygote(), signal.SIGKILL)
        await bench.until(lambda: told)
        assert (await bench.run("f:version")).data == b"2"

    drive(scenario, folder, pool, reload=False)


@pytest.mark.fault
def test_an_executed_worker_never_runs_other_code_than_the_others(folder):
    async def scenario(bench, told):
        assert bench.supervisor.status()["zygote"]["starts_workers_by"] == "exec"
        put(folder, 2)
        os.kill((await bench.run("f:version")).worker, signal.SIGKILL)
        await bench.until(lambda: told)
        assert (await bench.run("f:version")).data == b"2"

    thread = "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,), daemon=True).start()"
    kit.write(folder, g=thread)
    drive(scenario, folder, reload=False)


@pytest.mark.long
@pytest.mark.fault
@pytest.mark.parametrize("pool", TWO)
def test_reloading_all_the_time_under_load_loses_nothing(folder, pool):
    async def scenario(bench, told):
        tokens = []
        for number in range(2, 12):
            put(folder, number)
            told.clear()
            while not told:
                tokens += [bench.hand("f:sleeps", 0.002) for _ in range(20)]
                await bench.end(tokens[-1])
        ended = [await bench.end(token) for token in tokens]
        assert {type(e) for e in ended} <= {Ended, Returned}
        done = [e for e in ended if isinstance(e, Ended)]
        assert {e.outcome for e in done} == {Outcome.SUCCEEDED}
        assert len(done) == len({e.token for e in done})
        versions = [int(e.data) for e in done]
        assert versions[-1] >= 10

    drive(scenario, folder, pool)


@pytest.mark.fault
def test_descriptors_and_processes_return_to_where_they_were(folder):
    process, others = psutil.Process(), kit.children()

    async def scenario(bench, told):
        await bench.run("f:version")
        before, children = process.num_fds(), len(kit.children() - others)
        for number in range(2, 6):
            put(folder, number)
            await bench.until(lambda number=number: len(told) == number - 1)
        await bench.until(lambda: process.num_fds() == before)
        await bench.until(lambda: len(kit.children() - others) == children)

    drive(scenario, folder)


def test_a_folder_that_goes_away_for_a_moment_is_loaded_when_it_is_back(folder):
    async def scenario(bench, told):
        away = folder.with_name("away")
        shutil.move(folder, away)
        await bench.until(lambda: told and told[-1] == [])
        shutil.move(away, folder)
        await bench.until(lambda: told[-1] != [])
        assert (await bench.run("f:version")).data == b"1"

    drive(scenario, folder)
