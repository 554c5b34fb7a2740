"""Descriptors, memory or processes are out while a worker or a zygote is started, replaced or retired."""

from __future__ import annotations

import asyncio
import errno
import os
import signal

import pytest
import workers_kit as kit
from busway.domain.run import Outcome
from busway.gateway.executors.port import Ended, Returned
from busway.gateway.executors.python.host import renewal

from tests.scarce import (
    ERRORS,
    MEMORY,
    STREAM,
    Children,
    descriptors,
    errors_of,
    room_for,
    scarce,
    seeded,
)

pytestmark = pytest.mark.fault

CODE = """
    import os, time

    def fine(event): return event.data

    def exits(event): os._exit(3)

    def stays(event):
        while True:
            time.sleep(0.01)

    def yields(event):
        for n in range(40):
            yield "x" * 20_000

    HELD = []
    def grows(event):
        HELD.append(bytearray(os.urandom(1 << 20)) * 4)
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "handlers").mkdir()
    kit.write(tmp_path / "handlers", f=CODE)
    return tmp_path / "handlers"


async def exits(bench):
    """A worker dies and is replaced."""
    assert (await bench.run("f:exits")).error.type == "WorkerDied"


async def alone(bench):
    """An attempt gets a worker of its own."""
    assert (await bench.run("f:fine", 1, alone=True)).outcome is Outcome.SUCCEEDED


async def limited(bench):
    """A handler with a memory limit, whose last worker died, gets another one."""
    assert (await bench.run("f:exits", memory=64)).error.type == "WorkerDied"
    assert (await bench.run("f:fine", 1, memory=64)).outcome is Outcome.SUCCEEDED


async def stays(bench):
    """A worker is killed, or retired, for an attempt that does not end."""
    assert (await bench.run("f:stays", timeout=0.01)).error.type == "Timeout"


async def grows(bench):
    """A worker grows too much and is replaced."""
    for _ in range(4):
        assert (await bench.run("f:grows")).outcome is Outcome.SUCCEEDED


async def no_zygote(bench):
    """The zygote dies: another one loads the folder and starts other workers."""
    restarts = bench.supervisor.status()["zygote"]["restarts"]
    os.kill(bench.zygote(), signal.SIGKILL)
    await bench.until(lambda: bench.supervisor.status()["zygote"]["restarts"] > restarts)


async def works(bench):
    """All pools work, and nothing is left of what could not be started."""
    assert (await bench.run("f:fine", 1)).outcome is Outcome.SUCCEEDED
    assert (await bench.run("f:fine", 1, alone=True)).outcome is Outcome.SUCCEEDED
    assert (await bench.run("f:fine", 1, memory=64)).outcome is Outcome.SUCCEEDED

    def complete():
        pool = bench.supervisor.status()["pools"][bench.pool]
        ready = [worker for worker in pool["workers"] if worker["state"] == "ready"]
        well = pool["error"] is None and pool["crash_loop"] is None
        return len(ready) == len(pool["workers"]) == pool["processes"] and well

    await bench.until(complete)


SCENARIOS = [exits, alone, limited, stays, grows, no_zygote]


@pytest.mark.long
@pytest.mark.parametrize("pool", ["process", "thread"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_each_call_may_fail_once(folder, pool, scenario, monkeypatch):
    monkeypatch.setattr(renewal, "_STEADY", 0.0)  # otherwise each new zygote waits longer
    chance = seeded()

    async def main(bench):
        await works(bench)
        with scarce() as calls:
            calls.fail(lambda _: False)
            await scenario(bench)
            await works(bench)
            made = list(calls.made)
            assert made
            for number in range(len(made)):
                calls.fail(lambda n, number=number: n == number, chance.choice(ERRORS))
                await scenario(bench)
                await works(bench)

    kit.drive(main, folder, pool, processes=1, growth=8 << 20)


@pytest.mark.parametrize("pool", ["process", "thread"])
@pytest.mark.parametrize("scenario", [*SCENARIOS[:-1], pytest.param(no_zygote, marks=pytest.mark.long)])
def test_calls_may_fail_by_chance(folder, pool, scenario):
    chance = seeded()

    async def main(bench):
        await works(bench)
        before = descriptors()
        with scarce() as calls:
            for _ in range(2):
                calls.fail(lambda n: n < 6 and chance.random() < 0.5, chance.choice(ERRORS))
                await scenario(bench)
        await works(bench)
        await bench.until(lambda: descriptors() <= before)

    kit.drive(main, folder, pool, processes=1, growth=8 << 20)


@pytest.mark.parametrize("pool", ["process", "thread"])
@pytest.mark.parametrize("options", [{}, {"alone": True}, {"memory": 64}], ids=["pool", "alone", "memory"])
def test_attempts_wait_until_there_are_descriptors_and_the_reason_is_named(folder, pool, options):
    async def main(bench):
        await works(bench)
        with scarce() as calls:
            calls.fail(lambda _: True)
            for pid in [*bench.pids(), *pids_of(bench, "memory:fine")]:
                os.kill(pid, signal.SIGKILL)
            name = "memory:fine" if "memory" in options else pool
            await bench.until(lambda: not pids_of(bench, name))
            token = bench.hand("f:fine", 1, **options)
            pools = bench.supervisor.status
            await bench.until(lambda: pools()["pools"][name]["error"] == os.strerror(errno.EMFILE))
            assert pools()["pools"][name]["delayed"]
            assert not bench.reports(token, Ended)
        while isinstance(ended := await bench.end(token), Returned):
            token = bench.hand("f:fine", 1, **options)
        assert ended.outcome is Outcome.SUCCEEDED
        await works(bench)

    kit.drive(main, folder, pool, processes=1)


def pids_of(bench, pool):
    found = bench.supervisor.status()["pools"].get(pool, {"workers": []})
    return [worker["pid"] for worker in found["workers"]]


@pytest.mark.parametrize("pool", ["process", "thread"])
@pytest.mark.parametrize("more", range(5))
def test_a_zygote_without_descriptors_starts_workers_when_it_has_some_again(folder, pool, more):
    """`more`: how many it may open, of the four that it needs to start a worker."""

    async def main(bench):
        zygote = bench.zygote()
        await works(bench)
        family = len(kit.children())
        with room_for(zygote, more):
            await exits(bench)
            if more < 4:
                await bench.until(lambda: bench.supervisor.status()["pools"][pool]["error"])
        await works(bench)
        assert bench.zygote() == zygote
        await bench.until(lambda: len(kit.children()) <= family)

    kit.drive(main, folder, pool, processes=1)


@pytest.mark.parametrize("more", range(7))
def test_a_gateway_without_descriptors_starts_workers_when_it_has_some_again(folder, more):
    """`more`: how many it may open, of the six that it needs for a worker."""

    async def main(bench):
        await works(bench)
        [pid] = bench.pids()
        with room_for(os.getpid(), more):
            os.kill(pid, signal.SIGKILL)
            await bench.until(lambda: pid not in bench.pids())
            await asyncio.sleep(0.1)
        await works(bench)

    kit.drive(main, folder, processes=1)


async def speaks(bench):
    """Attempts and reports are on the way, larger than a socket holds."""
    tokens = [bench.hand("f:fine", n) for n in range(5)]
    large, streams = bench.hand("f:fine", "x" * 900_000), bench.hand("f:yields")
    for token in (*tokens, large, streams):
        await succeeds(bench, token)
    assert len(bench.partials(streams)) == 40


async def succeeds(bench, token):
    ended = await bench.end(token)
    assert not isinstance(ended, Returned), "nothing was wrong with its worker"
    assert ended.outcome is Outcome.SUCCEEDED


@pytest.mark.long
@pytest.mark.parametrize("pool", ["process", "thread"])
def test_each_call_on_an_open_channel_may_fail_once(folder, pool):
    chance = seeded()

    async def main(bench):
        await works(bench)
        with scarce(STREAM) as calls:
            for scenario in (speaks, exits):
                calls.fail(lambda _: False)
                await scenario(bench)
                most = min(len(calls.made), 60)
                for number in range(most):
                    calls.fail(lambda n, number=number: n == number, chance.choice(MEMORY))
                    await scenario(bench)
        await works(bench)

    kit.drive(main, folder, pool, processes=1)


@pytest.mark.parametrize("pool", ["process", "thread"])
@pytest.mark.parametrize("call", ["send", "recv"])
def test_a_channel_without_memory_is_named_and_goes_on_when_there_is_some(folder, pool, call):
    async def main(bench):
        await works(bench)
        pids = bench.pids()
        with scarce({call: STREAM[call]}) as calls:
            calls.fail(lambda _: True, errno.ENOBUFS)
            token = bench.hand("f:fine", 1)
            status = bench.supervisor.status
            await bench.until(lambda: status()["pools"][pool]["error"] == os.strerror(errno.ENOBUFS))
            await bench.until(lambda: len(calls.made) > 5)  # it is tried again and again
            assert not bench.reports(token, Ended | Returned)
        await succeeds(bench, token)
        assert bench.supervisor.status()["pools"][pool]["error"] is None
        assert bench.pids() == pids

    kit.drive(main, folder, pool, processes=1)


@pytest.fixture
def fork(folder):
    """How the zygote starts workers."""


@pytest.fixture
def exec_(folder):
    """Files that start a thread keep the zygote from forking: it executes workers."""
    waits = "threading.Thread(target=time.sleep, args=(1e6,), daemon=True).start()"
    kit.write(folder, thread=f"import threading, time\n{waits}")


@pytest.mark.long
@pytest.mark.parametrize("pool", ["process", "thread"])
@pytest.mark.parametrize("start", ["fork", "exec_"])
def test_each_call_of_a_zygote_may_fail_once(folder, tmp_path, pool, start, monkeypatch, request):
    request.getfixturevalue(start)
    chance, children = seeded(), Children(tmp_path / "children", monkeypatch.setenv)

    async def main(bench):
        await works(bench)
        zygote = bench.zygote()
        children.count("zygote")
        await exits(bench)
        await works(bench)
        made = children.made()
        call = "fork" if start == "fork" else "posix_spawn"
        assert {"recv_fds", call, "pidfd_open", "send_fds"} <= set(made)
        for number, call in enumerate(made):
            children.fail("zygote", number, number + 1, chance.choice(errors_of(call)))
            await exits(bench)
            await works(bench)
        assert bench.zygote() == zygote

    kit.drive(main, folder, pool, processes=1)


@pytest.mark.parametrize("pool", ["process", "thread"])
def test_workers_that_the_zygote_cannot_fork_are_named_and_start_later(folder, tmp_path, pool, monkeypatch):
    children = Children(tmp_path / "children", monkeypatch.setenv)

    async def main(bench):
        await works(bench)
        children.fail("zygote", error=errno.EAGAIN, call="fork")
        os.kill(bench.pids()[0], signal.SIGKILL)
        status = bench.supervisor.status
        await bench.until(lambda: status()["pools"][pool]["error"])
        token = bench.hand("f:fine", 1)
        await bench.until(lambda: len(children.made()) > 2)  # it is tried again and again
        assert status()["pools"][pool]["error"] == os.strerror(errno.EAGAIN)
        children.count("zygote")
        await succeeds(bench, token)
        await works(bench)

    kit.drive(main, folder, pool, processes=1)


@pytest.mark.long
@pytest.mark.parametrize("pool", ["process", "thread"])
def test_each_call_of_a_worker_may_fail_once(folder, tmp_path, pool, monkeypatch):
    chance, children = seeded(), Children(tmp_path / "children", monkeypatch.setenv)

    async def main(bench):
        await works(bench)
        children.count("worker")
        await speaks(bench)
        made = children.made()
        assert {"send", "recv"} <= set(made)
        for number, call in enumerate(made[:60]):
            children.fail("worker", number, number + 1, chance.choice(errors_of(call)))
            await speaks(bench)
        await works(bench)

    kit.drive(main, folder, pool, processes=1)
