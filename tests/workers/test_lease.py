"""The lease: when it ends, nothing starts any more, and what must not overlap is killed."""

from __future__ import annotations

import asyncio
import time

import pytest
import workers_kit as kit
from busway.domain.run import Outcome
from busway.gateway.executors.port import Ended, Returned
from busway.gateway.executors.python.wire.lease import Lease, create, now

pytestmark = pytest.mark.fault
CODE = """
    import asyncio, os, time

    def waits_for(event):
        while not os.path.exists(event.data):
            time.sleep(0.005)
        return "done"

    async def waits_async(event):
        while not os.path.exists(event.data):
            await asyncio.sleep(0.005)
        return "done"

    def quick(event): return "quick"
"""
SECOND = 1_000_000_000


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "handlers").mkdir()
    kit.write(tmp_path / "handlers", f=CODE)
    return tmp_path / "handlers"


@pytest.mark.parametrize("target", ["f:waits_for", "f:waits_async"])
@pytest.mark.parametrize("pool", ["process", "thread"])
def test_what_must_not_overlap_ends_with_the_lease(folder, tmp_path, pool, target):
    other = "thread" if pool == "process" else "process"

    async def scenario(bench):
        go = tmp_path / "go"
        kept = bench.hand(target, str(go), pool=other)
        killed = bench.hand(target, str(go), exclusive=True)
        for token in (kept, killed):
            await bench.started(token)
        bench.supervisor.extend_lease(now() + SECOND // 2)
        ended = await bench.end(killed)
        assert ended.outcome is Outcome.LOST
        assert "could not reach the database in time" in ended.error.message
        assert not ended.alone
        waits = bench.hand("f:quick")
        await asyncio.sleep(0.2)
        assert not bench.reports(waits, Ended)
        bench.supervisor.extend_lease(now() + 600 * SECOND)
        assert (await bench.end(waits)).data == b'"quick"'
        again = bench.hand(target, str(go), exclusive=True)
        go.touch()
        assert (await bench.end(kept)).outcome is Outcome.SUCCEEDED
        assert (await bench.end(again)).outcome is Outcome.SUCCEEDED

    kit.drive(scenario, folder, pool)


def test_an_attempt_whose_worker_starts_behind_the_end_is_returned(folder):
    async def scenario(bench):
        await bench.run("f:quick")
        waiting = bench.hand("f:quick", alone=True)
        bench.supervisor.extend_lease(now() - 1)  # while its worker starts
        assert isinstance(await bench.end(waiting), Returned)
        bench.supervisor.extend_lease(now() + 60 * SECOND)
        assert (await bench.run("f:quick", alone=True)).data == b'"quick"'

    kit.drive(scenario, folder)


def test_a_lease_that_is_renewed_ends_nothing(folder, tmp_path):
    async def scenario(bench):
        go = tmp_path / "go"
        bench.supervisor.extend_lease(now() + 60 * SECOND)
        token = bench.hand("f:waits_for", str(go), exclusive=True)
        for _ in range(20):
            bench.supervisor.extend_lease(now() + 60 * SECOND)
            await asyncio.sleep(0.05)
        go.touch()
        assert (await bench.end(token)).outcome is Outcome.SUCCEEDED

    kit.drive(scenario, folder)


def test_holders_are_counted_and_a_reader_cannot_write():
    lease = Lease(create(), writes=True)
    zygote = Lease(lease.reader(), writes=False)
    assert zygote.left() is None
    assert not lease.ended()
    for pid in (7, 8, 7):
        lease.hold(pid)
    assert sorted(zygote.holders()) == [7, 8]
    lease.release(7)
    assert sorted(zygote.holders()) == [7, 8]
    lease.release(7)
    lease.hold(9)
    assert sorted(zygote.holders()) == [8, 9]
    before = time.monotonic_ns()
    assert not lease.extend(now() - 1)
    assert zygote.left() == 0
    assert lease.lapsed_since(before)
    assert lease.extend(now() + 60 * SECOND)
    assert 0 < zygote.left() <= 60
    assert lease.lapsed_since(before)
    assert not lease.lapsed_since(time.monotonic_ns())
    with pytest.raises(TypeError):
        zygote.extend(1)
    lease.close()
    zygote.close()
