"""A committer dies before, while or after it writes a batch: outcomes are stored once, others are unknown."""

import asyncio
import os
import random
import signal
from contextlib import asynccontextmanager

import pytest
from busway.domain.result import Kind
from busway.domain.run import RunState
from busway.gateway.errors import Unavailable
from busway.gateway.store.port.operations import (
    Acknowledge,
    Cancel,
    CreateKey,
    OpenDurable,
    StoredEvent,
    Unmoved,
)
from busway.gateway.store.port.reader import EventQuery
from busway.gateway.store.port.uploads import Upload

from tests.store.kit import (
    NOW,
    append,
    committing,
    event,
    handler,
    listening,
    mark,
    publish,
    reading,
    settle,
    settling,
    shown,
    until,
)
from tests.store.wire import CUTS, LOST, WRITTEN, Wire

pytestmark = pytest.mark.fault


@asynccontextmanager
async def wired(database, cut):
    """Commits over a wire that is cut at the batch after `arm`."""
    wire = Wire(database.launch(), cut)
    try:
        async with committing(database, wire.launched) as commits, reading(database) as reader:
            yield commits, wire, reader
    finally:
        await asyncio.to_thread(wire.close)


@pytest.mark.parametrize("cut", CUTS)
def test_outcomes_are_stored_once_and_the_rest_of_their_batch_together_or_not_at_all(database, cut):
    async def main():
        async with wired(database, cut) as (commits, wire, reader):
            notified = listening(commits)
            await commits.publish(publish(event("a"), event("b"), event("c", handlers=(1, 2)), event("d")))
            runs = {run.id: run for run in notified.runs}
            notified.clear()
            wire.arm()
            outcomes = send_outcomes(commits, runs)
            sent = [event(f"e{n}", handlers=(1, 2)) for n in range(50)]
            changes = [commits.publish(publish(*sent)), *map(commits.change, CHANGES)]
            await check_replies(outcomes)
            for change in await asyncio.gather(*changes, return_exceptions=True):
                assert isinstance(change, Unavailable)
                assert change.retry_after
            await until(lambda: commits.healthy)
            assert commits.pid != wire.process.pid
            written = await all_or_nothing(reader)
            assert written in ((True,) if cut in WRITTEN else (False,) if cut in LOST else (True, False))
            await check_outcomes(reader)
            check_notified(notified, 6 if written else 5)
            again = await commits.publish(publish(*sent))
            assert [one.seq for one in again] == list(range(6, 56))
            assert {one.duplicate for one in again} == {written}
            ids = [each.id for each in reversed(await reader.events(EventQuery(), 99))]
            assert ids == ["a", "b", "c", "d", "child", *[f"e{n}" for n in range(50)]]

    asyncio.run(main())


CHANGES = (
    Cancel(runs=[5], now=NOW),
    handler("three"),
    CreateKey(name="k", digest=b"d", scopes=[], now=NOW),
    OpenDurable(name="d", number=0, digest=0, now=NOW, most=5),
    Upload(producer="p", first=0, lines=1, rejected=1, events=[], now=NOW, oldest=0, most=9),
)


def send_outcomes(commits, runs):
    """Send outcomes of runs 1 to 3, and return what is to resolve."""
    commits.mark(mark(1))
    partials = [commits.append(append(1, index), runs[1], "one") for index in (0, 1)]
    child = event("child", root=1, parent=1)
    settled = [
        settling(commits, settle(1, root=1, published=[child, event("a")]), runs[1]),
        settling(commits, settle(2, event=2, root=2), runs[2]),
        settling(commits, settle(3, event=3, root=3, state=RunState.RETRYABLE, lost=1), runs[3]),
    ]
    assert commits.backlog == 6
    return [*partials, *settled]


async def check_replies(outcomes):
    *partials, parent, alone, again = await asyncio.gather(*outcomes)
    assert partials == [1, 2]
    assert [(each.accepted, each.number, each.completes) for each in (parent, alone, again)] == [
        (True, 3, None),
        (True, 4, b'{"succeeded":1}'),
        (True, 5, None),
    ]
    assert [one.seq for one in parent.stored] == [5, 1]
    assert parent.stored[1].duplicate


async def all_or_nothing(reader):
    """Return whether the changes and the 50 events are stored."""
    done = {
        (await reader.run(5))[0].state is RunState.CANCELLED,
        len(await reader.handlers()) == 3,
        len(await reader.keys()) == 1,
        await reader.durable("d") is not None,
        await reader.producer("p") is not None,
        await reader.totals() == (55, 6),
    }
    assert len(done) == 1
    return done == {True}


async def check_outcomes(reader):
    results = await reader.results(0, 5, 1 << 20)
    assert [(r.number, r.run, r.kind, r.index) for r in results] == [
        (1, 1, Kind.PARTIAL, 0),
        (2, 1, Kind.PARTIAL, 1),
        (3, 1, Kind.SUCCEEDED, None),
        (4, 2, Kind.SUCCEEDED, None),
        (5, 3, Kind.FAILED, None),
    ]
    assert [(run, each.id) for run, each in await reader.children([1, 2, 3])] == [(1, "child")]
    waiting = [(run.id, run.attempt, run.lost) for run in await reader.waiting(1, 10)]
    assert [each for each in waiting if each[0] in (1, 2, 3, 6)] == [(3, 1, 1), (6, 0, 0)]


def check_notified(notified, head):
    assert any(change.rescan for change in notified)
    assert notified[-1].head == head
    seen = [result.number for change in notified for result, _ in change.results]
    assert seen == sorted(set(seen))


def test_an_outcome_that_was_cancelled_meanwhile_is_refused(database):
    """It was not stored, and then a command cancels its run before it is sent again."""

    async def main():
        async with wired(database, "before it got the batch") as (commits, wire, reader):
            notified = listening(commits)
            await commits.publish(publish(event()))
            wire.arm()
            outcome = settling(commits, settle(1), notified.runs[0])
            partial = commits.append(append(1, 0), notified.runs[0], "one")
            await until(lambda: wire.process.returncode is not None or commits.pid is None)
            await asyncio.to_thread(database.apply, Cancel(runs=[1], now=NOW))
            settled = await outcome
            accepted, kinds = settled.accepted, [r.kind for r in await reader.results(0, 9, 1 << 20)]
            if accepted:  # it was sent again before the command wrote
                assert kinds == [Kind.SUCCEEDED]
                assert await partial == 0
            else:
                assert kinds == [Kind.CANCELLED]
                assert await partial == 0
            assert len({change.head for change in notified}) <= 2

    asyncio.run(main())


def test_a_durable_name_moves_once(database):
    async def main():
        async with wired(database, "before its reply") as (commits, wire, reader):
            notified = listening(commits)
            await commits.publish(publish(event()))
            await commits.append(append(1, 0), notified.runs[0], "one")
            position = (await reader.log_bounds())[0]
            await commits.change(OpenDurable(name="d", number=0, digest=0, now=NOW, most=5))
            wire.arm()
            moving = Acknowledge(positions=[("d", position.number, position.digest, 1)], now=NOW + 1)
            with pytest.raises(Unavailable):
                await commits.change(moving)
            await until(lambda: commits.healthy)
            assert (await reader.durable("d")).position == position
            assert await commits.change(moving) == Unmoved([], [])
            assert (await reader.durable("d")).acknowledged_at == NOW + 1

    asyncio.run(main())


def kill(_database, commits):
    os.kill(commits.pid, signal.SIGKILL)


def freeze_and_kill(_database, commits):
    """Its socket has the batch when it dies."""
    os.kill(commits.pid, signal.SIGSTOP)
    asyncio.get_running_loop().call_later(0.05, os.kill, commits.pid, signal.SIGKILL)


def cut_off(database, commits):
    shown(database, "cut")(commits)


@pytest.mark.parametrize("fault", [kill, freeze_and_kill, cut_off])
def test_an_outcome_survives_any_number_of_faults(database, fault):
    if fault is cut_off:
        shown(database, "cut")

    async def main():
        async with committing(database) as commits, reading(database) as reader:
            notified = listening(commits)
            await commits.publish(publish(*[event() for _ in range(3)]))
            for run in notified.runs:
                await until(lambda: commits.pid)
                fault(database, commits)
                commits.append(append(run.id, 0), run, "one")
                commits.settle(settle(run.id, event=run.id, root=run.id), run, "one")
            await commits.drained()
            await until(lambda: not commits.backlog)
            results = await reader.results(0, 99, 1 << 20)
            assert [r.number for r in results] == list(range(1, 7))
            assert sorted((r.run, r.kind) for r in results) == sorted(
                (run, kind) for run in range(1, 4) for kind in (Kind.PARTIAL, Kind.SUCCEEDED)
            )

    asyncio.run(main())


@pytest.mark.parametrize("round_", range(2))
def test_a_large_batch_is_written_whole_or_not_at_all(database, round_):
    seed = int(os.environ.get("SEED", random.randrange(1 << 32))) + round_
    print(f"SEED={seed - round_}")
    chance = random.Random(seed)

    async def main():
        async with committing(database) as commits, reading(database) as reader:
            sent = [event(f"e{n}", handlers=(1, 2), data=b'"%b"' % (b"x" * 2000)) for n in range(2000)]
            storing = commits.publish(publish(*sent))
            await asyncio.sleep(chance.random() * 0.1)
            os.kill(killed := commits.pid, signal.SIGKILL)
            replied = (await asyncio.gather(storing, return_exceptions=True))[0]
            await until(lambda: commits.healthy and commits.pid != killed)
            events, _ = await reader.totals()
            assert events in (0, 2000)
            if not isinstance(replied, Unavailable):
                assert events == 2000
            assert (await commits.publish(publish(event("e0"), event("last"))))[1] == StoredEvent(
                events + 1 + (events == 0), 2 * events + 1 + (events == 0)
            )
            runs = {} if not events else {1: {"available": 2001}, 2: {"available": 2000}}
            assert await reader.counts() == (runs or {1: {"available": 2}})

    asyncio.run(main())


def test_a_reader_sees_whole_commits_while_a_gateway_writes(database):
    """Each commit stores three events with two runs each, or three results."""

    async def main():
        async with committing(database) as commits, reading(database, threads=2) as reader:
            over = asyncio.Event()

            def take(change):
                for run in change.runs:
                    outcome = settle(run.id, event=run.event.seq, root=run.event.seq, handler=run.handler)
                    commits.settle(outcome, run, "one" if run.handler == 1 else "two")

            commits.listen(take)

            async def write():
                while not over.is_set():
                    await commits.publish(publish(*[event(handlers=(1, 2)) for _ in range(3)]))

            writing = asyncio.create_task(write())
            seen = 0
            while seen < 150:
                events, results = await reader.totals()
                assert events % 3 == 0
                assert events >= seen
                seen = events
                found = await reader.events(EventQuery(), 10)
                assert len(found) % 3 == 0 or len(found) == 10
                if found:
                    runs = await reader.runs_of([each.seq for each in found])
                    assert len(runs) == 2 * len(found)
                log = await reader.results(max(0, results - 20), 1000, 1 << 20)
                numbers = [result.number for result in log]
                assert numbers == list(
                    range(max(0, results - 20) + 1, max(0, results - 20) + 1 + len(numbers))
                )
                assert len(numbers) >= min(results, 20)
                counts = await reader.counts()
                assert sum(sum(each.values()) for each in counts.values()) % 6 == 0
            over.set()
            await writing
            await commits.drained()

    asyncio.run(main())


def test_close_stores_or_fails_what_is_queued_while_a_committer_is_replaced(database):
    """It waits for another committer, but not for long."""

    async def main():
        async with committing(database) as commits:
            notified = listening(commits)
            await commits.publish(publish(event(), event()))
            os.kill(commits.pid, signal.SIGKILL)
            sent = [
                settling(commits, settle(run.id, event=run.id, root=run.id), run) for run in notified.runs
            ]
            await commits.close(timeout=60)
            replies = await asyncio.gather(*sent, return_exceptions=True)
            assert not commits.backlog
        async with reading(database) as reader:
            stored = [result.run for result in await reader.results(0, 9, 1 << 20)]
            assert {1, 2} == {*stored, *(run.id for run in await reader.waiting(1, 9))}
        accepted = [n for n, reply in enumerate(replies, 1) if not isinstance(reply, Unavailable)]
        assert set(accepted) <= set(stored)
        assert all(reply.accepted for reply in replies if not isinstance(reply, Unavailable))

    asyncio.run(main())
