"""Group commit: order of replies and notifications, and batches of a committer that died."""

import asyncio
import os
import pickle
import signal
import subprocess
import sys

import msgspec
import psutil
import pytest
from busway.domain.run import Error, RunState
from busway.gateway.errors import Conflict, Unavailable
from busway.gateway.store.group import queues
from busway.gateway.store.group.commits import SEND_NOW
from busway.gateway.store.group.completion import REPLIES_PER_TURN
from busway.gateway.store.port.operations import (
    Cancel,
    CancelWaiting,
    Expire,
    Retry,
    StoredEvent,
)

from tests.store.kit import (
    NOW,
    append,
    committing,
    event,
    handler,
    listening,
    publish,
    reading,
    settle,
    settling,
    until,
)


class Publisher:
    """A waiter that records when it receives its stored events."""

    def __init__(self, notes, then=lambda: None):
        self.notes, self.then = notes, then

    def done(self):
        return False

    def set_result(self, stored):
        self.notes.append(stored[0].seq)
        self.then()

    def set_exception(self, problem):
        self.notes.append(problem)


def test_listeners_receive_new_runs_with_their_events(database):
    async def main():
        async with committing(database) as commits:
            notified = listening(commits)
            stored = commits.publish(publish(event("a", handlers=(1, 2)), event(handlers=())))
            assert await stored == [StoredEvent(1, 1), StoredEvent(2, 3)]
            assert [(run.id, run.handler, run.event.id) for run in notified[0].runs] == [
                (1, 1, "a"),
                (2, 2, "a"),
            ]

    asyncio.run(main())


def test_publishers_get_replies_in_turns_before_listeners_are_notified(database):
    async def main():
        async with committing(database) as commits:
            notes = listening(commits)

            def next_turn():
                asyncio.get_running_loop().call_soon(notes.append, "turn")

            size = 2 * REPLIES_PER_TURN + 1
            for number in range(size):
                commits.submit(publish(event()), Publisher(notes, (lambda: None) if number else next_turn))
            changed = commits.change(Cancel(runs=[99], now=NOW))
            changed.add_done_callback(lambda _: notes.append("changed"))
            await changed
            first, rest = list(range(1, REPLIES_PER_TURN + 1)), list(range(REPLIES_PER_TURN + 1, size + 1))
            assert notes[:-2] == [*first, "turn", *rest]
            assert len(notes[-2].runs) == size
            assert notes[-1] == "changed"

    asyncio.run(main())


def test_written_batches_are_completed_before_a_failed_one(database):
    async def main():
        async with committing(database) as commits:
            notes = listening(commits)
            size = 2 * REPLIES_PER_TURN

            def lost():
                commits._fail_batch("the committer died")
                notes.append("lost")

            def lose():
                asyncio.get_running_loop().call_soon(lost)

            for number in range(size):
                commits.submit(publish(event()), Publisher(notes, (lambda: None) if number else lose))
            await until(lambda: "lost" in notes)
            assert notes[:size] == list(range(1, size + 1))
            assert len(notes[size].runs) == size
            assert notes[size + 1 :] == ["lost"]

    asyncio.run(main())


def test_written_batches_are_completed_before_close_returns(database):
    async def main():
        async with committing(database) as commits:
            notes = listening(commits)
            size, answered = 4 * REPLIES_PER_TURN, asyncio.Event()
            for _ in range(size):
                commits.submit(publish(event()), Publisher(notes, answered.set))
            await answered.wait()
            closing = asyncio.create_task(commits.close())
            await asyncio.sleep(0)
            assert notes[:size] == list(range(1, size + 1))
            assert [len(commit.runs) for commit in notes[size:]] == [size]
            await closing

    asyncio.run(main())


def test_operations_that_arrive_during_a_commit_share_the_next(database):
    async def main():
        async with committing(database) as commits:
            notified = listening(commits)
            first = [commits.publish(publish(event())) for _ in range(SEND_NOW)]
            await asyncio.gather(*first, *[commits.publish(publish(event())) for _ in range(100)])
            assert [len(commit.runs) for commit in notified] == [SEND_NOW, 100]

    asyncio.run(main())


def test_operations_of_one_turn_share_a_commit_unless_there_are_many(database):
    async def main():
        async with committing(database) as commits:
            notified = listening(commits)
            await asyncio.gather(*[commits.publish(publish(event())) for _ in range(SEND_NOW - 1)])
            assert [len(commit.runs) for commit in notified] == [SEND_NOW - 1]

    asyncio.run(main())


def test_listeners_receive_an_outcome_with_its_result_and_the_run_that_waits_again(database):
    async def main():
        async with committing(database) as commits:
            notified = listening(commits)
            await commits.publish(publish(event()))
            run = notified.runs[0]
            commits.append(append(1, 0), run, "one")
            await settling(commits, settle(1, state=RunState.RETRYABLE, due=NOW + 5, lost=1), run)
            change = notified[-1]
            again = msgspec.structs.replace(run, attempt=1, lost=1, due=NOW + 5, since=NOW + 20)
            assert (change.ended, change.runs, change.head) == ([1], [again], 2)
            assert run.attempt == 0, "earlier notifications do not change"
            assert [(r.number, r.handler, r.index) for r, _ in change.results] == [
                (1, "one", 0),
                (2, "one", None),
            ]
            child = event(root=1, parent=1)
            settled = await settling(commits, settle(1, 2, root=1, published=[child]), again)
            assert settled.stored == [StoredEvent(2, 2)]
            assert [(r.id, r.event.root) for r in notified[-1].runs] == [(2, 1)]
            async with reading(database) as reader:
                assert notified.results == await reader.results_with_events(0, 10, 1 << 20)

    asyncio.run(main())


def test_a_refused_outcome_is_reported_as_ended_and_requests_a_rescan(database):
    async def main():
        async with committing(database) as commits:
            notified = listening(commits)
            await commits.publish(publish(event()))
            await commits.change(Cancel(runs=[1], now=NOW))
            assert (notified[-1].ended, notified[-1].head, notified[-1].results) == ([1], 1, [])
            settled = await settling(commits, settle(1), notified.runs[0])
            assert not settled.accepted
            assert (notified[-1].ended, notified[-1].rescan) == ([1], True)
            assert await commits.change(Retry(runs=[1], now=NOW)) == [1]
            assert notified[-1].rescan

    asyncio.run(main())


def test_listeners_receive_a_retried_waiting_run_again(database):
    async def main():
        async with committing(database) as commits:
            notified = listening(commits)
            await commits.publish(publish(event()))
            await settling(commits, settle(1, state=RunState.RETRYABLE, due=NOW + 5), notified.runs[0])
            assert await commits.change(Retry(runs=[1], now=NOW)) == [1]
            [run] = notified[-1].runs
            assert (notified[-1].ended, notified[-1].rescan) == ([1], False)
            assert (run.due, run.attempt, run.granted, run.event) == (None, 1, 1, notified[0].runs[0].event)

    asyncio.run(main())


class Faulty:
    def done(self):
        return False

    def set_result(self, result):
        raise RuntimeError(f"cannot take {result}")

    def set_exception(self, exception):
        raise RuntimeError("cannot take it") from exception


def test_a_faulty_waiter_does_not_affect_others(database, caplog):
    async def main():
        async with committing(database) as commits:
            notified = listening(commits)
            commits.submit(publish(event()), Faulty())
            assert await commits.publish(publish(event())) == [StoredEvent(2, 2)]
            assert len(notified.runs) == 2
            os.kill(commits.pid, signal.SIGSTOP)
            commits.submit(publish(event()), Faulty())
            lost = commits.publish(publish(event()))
            await asyncio.sleep(0.05)
            os.kill(commits.pid, signal.SIGKILL)
            with pytest.raises(Unavailable):
                await lost
            await until(lambda: commits.healthy)
            assert (await commits.publish(publish(event())))[0].seq >= 3
        assert [record.message for record in caplog.records if record.exc_info] == [
            "a waiter of a successful commit raised an exception",
            "a waiter of a failed commit raised an exception",
        ]

    asyncio.run(main())


def test_a_refused_change_fails_alone(database):
    async def main():
        async with committing(database) as commits:
            stored = commits.publish(publish(event()))
            with pytest.raises(Conflict):
                await commits.change(handler("one"))
            assert await stored == [StoredEvent(1, 1)]
            assert commits.healthy

    asyncio.run(main())


def test_a_full_queue_refuses_publishing_but_no_outcomes(database, monkeypatch):
    monkeypatch.setattr(queues, "QUEUE_EVENTS", 10)

    async def main():
        async with committing(database) as commits:
            notified = listening(commits)
            await commits.publish(publish(event()))
            waiting = [commits.publish(publish(event())) for _ in range(10)]
            with pytest.raises(Unavailable) as refused:
                commits.publish(publish(event()))
            assert refused.value.retry_after == 1
            settled = settling(commits, settle(1), notified.runs[0])
            assert commits.backlog == 1
            assert (await settled).number == 1
            await asyncio.gather(*waiting)
            assert commits.backlog == 0

    asyncio.run(main())


def test_an_empty_queue_accepts_an_operation_above_its_limit(database, monkeypatch):
    monkeypatch.setattr(queues, "QUEUE_EVENTS", 10)

    async def main():
        async with committing(database) as commits:
            stored = await commits.publish(publish(*[event() for _ in range(3000)]))
            assert [r.seq for r in stored] == list(range(1, 3001))

    asyncio.run(main())


def test_closing_writes_what_is_queued(database):
    async def main():
        async with committing(database) as commits:
            stored = [commits.publish(publish(event())) for _ in range(5000)]
            closing = asyncio.create_task(commits.close())
            assert len(await asyncio.gather(*stored)) == 5000
            await closing
            with pytest.raises(Unavailable):
                commits.publish(publish(event()))

    asyncio.run(main())
    assert asyncio.run(totals(database)) == (5000, 0)


def test_signals_for_the_gateway_do_not_end_the_committer(database):
    async def main():
        async with committing(database) as commits:
            committer = commits.pid
            assert os.getsid(committer) == committer
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                os.kill(committer, number)
            await commits.publish(publish(event()))
            assert commits.pid == committer

    asyncio.run(main())


def test_the_committer_ends_with_its_gateway(database):
    code = (
        "import asyncio, pickle, sys\n"
        "from tests.store.kit import committing\n"
        "async def main():\n"
        "    async with committing(pickle.loads(bytes.fromhex(sys.argv[1]))) as commits:\n"
        "        print(commits.pid, flush=True)\n"
        "        await asyncio.sleep(3600)\n"
        "asyncio.run(main())\n"
    )
    pickled = pickle.dumps(database).hex()
    with subprocess.Popen([sys.executable, "-c", code, pickled], stdout=subprocess.PIPE) as gateway:
        committer = psutil.Process(int(gateway.stdout.readline()))
        gateway.kill()

    def gone():
        return not committer.is_running() or committer.status() == psutil.STATUS_ZOMBIE

    asyncio.run(until(gone))


def test_closing_while_a_committer_starts_leaves_no_process(database):
    async def main():
        async with committing(database) as commits:
            os.kill(commits.pid, signal.SIGKILL)
            await until(lambda: commits.pid is None)
            await asyncio.sleep(0.05)
        assert commits.pid is None

    asyncio.run(main())


LATER = {
    "cancelled": lambda: Cancel(runs=[1, 2], now=NOW + 30),
    "its handler deleted": lambda: CancelWaiting(
        handler=1, error=Error("HandlerDeleted", "deleted"), now=NOW + 30, limit=9
    ),
    "expired": lambda: Expire(error=Error("Expired", "late"), now=NOW + 100, limit=9, spare=[]),
}


@pytest.mark.parametrize(
    ("end", "before"),
    [
        *((end, "published") for end in LATER),
        *((end, "waits again") for end in LATER if end != "expired"),  # a run with an attempt does not expire
    ],
)
def test_a_run_that_ends_in_the_commit_that_made_it_wait_is_not_reported_as_waiting(database, end, before):
    async def main():
        async with committing(database) as commits:
            new = publish(event("a", handlers=(1,), expires_at=NOW + 50))
            if before == "waits again":
                await commits.publish(new)
                (run,) = await waiting_runs(database)
                notified = listening(commits)
                settling(commits, settle(1, state=RunState.RETRYABLE, due=NOW + 1000), run)
            else:
                notified = listening(commits)
                commits.publish(new)
            await commits.change(LATER[end]())
            (change,) = notified
            assert (change.ended[-1], change.runs) == (1, [])

    asyncio.run(main())


async def totals(database):
    async with reading(database) as reader:
        return await reader.totals()


async def waiting_runs(database):
    async with reading(database) as reader:
        return await reader.waiting(1, 10, now=NOW, max_bytes=1 << 20)


def test_a_run_that_is_retried_in_the_commit_in_which_it_waits_again_is_reported_once(database):
    async def main():
        async with committing(database) as commits:
            await commits.publish(publish(event("a", handlers=(1,), attributes={"partitionkey": "k"})))
            (run,) = await waiting_runs(database)
            notified = listening(commits)
            settling(commits, settle(1, state=RunState.RETRYABLE, due=NOW + 1000), run)
            await commits.change(Retry(runs=[1], now=NOW + 30))
            (change,) = notified
            assert [(run.id, run.key) for run in change.runs] == [(1, None)]

    asyncio.run(main())


def test_a_database_has_one_epoch(database):
    async def epoch():
        async with committing(database) as commits:
            return commits.epoch

    first, second = asyncio.run(epoch()), asyncio.run(epoch())
    assert first == second
    assert len(first) == 16
