"""What listeners receive of each operation: every field of `Committed`, in every commit."""

import asyncio

import msgspec
from busway.domain.cursor import START, Position, digest
from busway.domain.event import to_event
from busway.domain.result import Kind, Result, result_event
from busway.domain.run import Error, Run, RunState
from busway.gateway.store.port.commits import Committed
from busway.gateway.store.port.operations import (
    Acknowledge,
    Cancel,
    CancelWaiting,
    CreateKey,
    DeleteDurable,
    Expire,
    Floor,
    Lead,
    OpenDurable,
    Opened,
    PruneEvents,
    PruneResults,
    Retry,
    RetryDead,
    RevokeKey,
    StoredEvent,
    Unmoved,
)

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
)

LATE = Error("Expired", "too late")


def played(database, scene):
    """Run `scene(commits, notified)` and return what listeners received in it."""

    async def main():
        async with committing(database) as commits:
            notified = listening(commits)
            await scene(commits, notified)
            return [unnumbered(change) for change in notified]

    return asyncio.run(main())


def unnumbered(change):
    """Return a commit without its number: SQLite does not count commits."""
    return msgspec.structs.replace(change, number=0)


def test_new_runs_have_all_their_fields(database):
    new = event(
        "a",
        handlers=(2, 1),
        attributes={"partitionkey": "k", "priority": 7},
        priority=7,
        due=NOW + 9,
        expires_at=NOW + 99,
        subject="s",
        datacontenttype="application/json",
        correlationid="c",
    )
    plain = event("b", accepted_at=NOW + 1)

    async def scene(commits, _):
        await commits.publish(publish(new, event("none", handlers=()), plain))

    (change,) = played(database, scene)
    known = {"priority": 7, "due": NOW + 9, "since": NOW + 9, "expires_at": NOW + 99, "key": "k"}
    assert change == Committed(
        head=0,
        runs=[
            Run(id=1, event=to_event(new, 1), handler=2, **known),
            Run(id=2, event=to_event(new, 1), handler=1, **known),
            Run(id=3, event=to_event(plain, 3), handler=1, since=NOW + 1),
        ],
    )


def test_notified_runs_are_those_that_the_store_returns(database):
    async def scene(commits, notified):
        await commits.publish(publish(event(priority=9), event(attributes={"partitionkey": "é"}), event()))
        waiting = [run for change in notified for run in change.runs]
        settling(commits, settle(3, state=RunState.RETRYABLE, lost=2), waiting[2])
        await commits.drained()
        async with reading(database) as reader:
            assert await reader.waiting(1, 10) == [*waiting[:2], notified[-1].runs[0]]

    played(database, scene)


def test_a_duplicate_starts_no_run(database):
    async def scene(commits, _):
        await commits.publish(publish(event("a")))
        assert await commits.publish(publish(event("a"))) == [StoredEvent(1, 0, True)]

    _, second = played(database, scene)
    assert second == Committed(head=0)


def test_an_outcome_has_its_result_with_all_fields(database):
    new = event("a", handlers=(1, 2), subject="s", correlationid="c")

    async def scene(commits, notified):
        await commits.publish(publish(new))
        run, other = notified[0].runs
        partial = append(1, 0)
        partial.result.data, partial.result.binary = b"\x00\xff", True
        assert await commits.append(partial, run, "one") == 1
        failed = settle(1, state=RunState.RETRYABLE, due=NOW + 50)
        assert (await settling(commits, failed, run)).number == 2
        succeeded = settle(2, handler=2)
        succeeded.report.revision = 4
        assert (await settling(commits, succeeded, other, "two")).number == 3
        dead = settle(1, 2, RunState.DEAD)
        assert (await settling(commits, dead, notified[2].runs[0])).completes == b'{"succeeded":1,"dead":1}'

    _, *changes = played(database, scene)
    stored = to_event(new, 1)
    known = {"event": result_event(stored), "handler": "one", "revision": 1, "run": 1, "attempt": 1}
    wrong = ("ValueError", "bad")
    partial = Result(
        number=1, kind=Kind.PARTIAL, **known, index=0, data=b"\x00\xff", binary=True, time=NOW + 7
    )
    failed = Result(number=2, kind=Kind.FAILED, **known, error=wrong, time=NOW + 20)
    done = {**known, "handler": "two", "revision": 4, "run": 2}
    succeeded = Result(number=3, kind=Kind.SUCCEEDED, **done, data=b'"done"', time=NOW + 20)
    dead = Result(
        number=4,
        kind=Kind.DEAD,
        **{**known, "attempt": 2},
        error=wrong,
        completes=b'{"succeeded":1,"dead":1}',
        time=NOW + 20,
    )
    again = Run(id=1, event=stored, handler=1, attempt=1, due=NOW + 50, since=NOW + 50)
    assert changes == [
        Committed(head=1, results=[(partial, stored)]),
        Committed(head=2, ended=[1], runs=[again], results=[(failed, stored)]),
        Committed(head=3, ended=[2], results=[(succeeded, stored)]),
        Committed(head=4, ended=[1], results=[(dead, stored)]),
    ]


def test_published_events_start_their_runs_with_the_outcome(database):
    parent = event("parent")
    child = event("child", root=1, parent=1, handlers=(2, 1), accepted_at=NOW + 3, correlationid="c")

    async def scene(commits, notified):
        await commits.publish(publish(parent))
        settled = await settling(
            commits, settle(1, root=1, published=[event("parent"), child]), notified[0].runs[0]
        )
        assert settled.stored == [StoredEvent(1, 0, True), StoredEvent(2, 2)]

    _, change = played(database, scene)
    stored = to_event(child, 2)
    assert (change.ended, change.head, change.rescan) == ([1], 1, False)
    assert change.runs == [
        Run(id=2, event=stored, handler=2, since=NOW + 3),
        Run(id=3, event=stored, handler=1, since=NOW + 3),
    ]
    assert stored.root == 1


def test_an_outcome_without_a_result_moves_no_head(database):
    async def scene(commits, notified):
        await commits.publish(publish(event()))
        settled = await settling(commits, settle(1, result=None), notified[0].runs[0])
        assert (settled.accepted, settled.number) == (True, 0)

    assert played(database, scene)[1] == Committed(head=0, ended=[1])


def test_a_mark_changes_nothing_for_listeners(database):
    async def scene(commits, _):
        await commits.publish(publish(event()))
        commits.mark(mark(1))
        await commits.drained()

    assert played(database, scene)[1] == Committed(head=0)


def test_a_partial_of_an_attempt_that_ended_is_no_result(database):
    async def scene(commits, notified):
        await commits.publish(publish(event()))
        run = notified[0].runs[0]
        await settling(commits, settle(1), run)
        assert await commits.append(append(1, 0), run, "one") == 0

    assert played(database, scene)[2] == Committed(head=1)


def test_cancelled_runs_are_ended_and_their_results_are_in_the_store(database):
    operations = (
        Cancel(runs=[2, 1, 77], now=NOW + 1),
        CancelWaiting(handler=1, error=LATE, now=NOW + 1, limit=9),
        Expire(error=LATE, now=NOW + 50, limit=9, spare=[]),
    )

    async def scene(commits, notified):
        for number, operation in enumerate(operations):
            await commits.publish(publish(*[event(expires_at=NOW + 50) for _ in range(2)]))
            reply = await commits.change(operation)
            assert sorted(reply) == [2 * number + 1, 2 * number + 2]
            assert unnumbered(notified[-1]) == Committed(head=2 * number + 2, ended=reply)

    played(database, scene)


def test_a_retried_run_that_waited_is_ended_and_new(database):
    new = event("a", attributes={"partitionkey": "k"}, priority=3)

    async def scene(commits, notified):
        await commits.publish(publish(new))
        await settling(
            commits, settle(1, state=RunState.RETRYABLE, due=NOW + 90, lost=1), notified[0].runs[0]
        )
        assert await commits.change(Retry(runs=[1], now=NOW + 30)) == [1]

    *_, change = played(database, scene)
    run = Run(id=1, event=to_event(new, 1), handler=1, attempt=1, lost=1, priority=3, since=NOW + 30)
    assert change == Committed(head=1, ended=[1], runs=[run])


def test_a_retried_run_that_had_ended_is_found_by_a_rescan(database):
    operations = (
        Retry(runs=[1], now=NOW + 30),
        RetryDead(state=RunState.CANCELLED, handler=None, now=NOW, limit=5),
    )

    async def scene(commits, notified):
        await commits.publish(publish(event()))
        for head, operation in enumerate(operations, 1):
            await commits.change(Cancel(runs=[1], now=NOW))
            assert await commits.change(operation) == [1]
            assert await commits.change(operation) == []
            assert [unnumbered(change) for change in notified[-2:]] == [
                Committed(head=head, rescan=True),
                Committed(head=head),
            ]

    played(database, scene)


def test_rescued_runs_are_found_by_a_rescan(database):
    async def scene(commits, _):
        await commits.publish(publish(event(), event()))
        commits.mark(mark(1))
        assert await commits.change(Lead(now=NOW + 5, max_losses=10)) == [1]
        assert await commits.change(Lead(now=NOW + 5, max_losses=10)) == []

    *_, change, nothing = played(database, scene)
    assert change == Committed(head=1, ended=[1], rescan=True)
    assert nothing == Committed(head=1)


def test_changed_handlers_are_as_they_are_now(database):
    wanted = {
        "revision": 3,
        "declared": {"target": "a:b", "events": ["ä.*"]},
        "overrides": {"timeout": 1.5},
        "file_digest": "d",
        "missing": True,
        "deleted": True,
        "created_at": 5,
        "updated_at": 6,
    }

    async def scene(commits, _):
        number = await commits.change(handler("three", **wanted))
        assert await commits.change(handler("three", number)) == number

    first, second = played(database, scene)
    made = handler("three", 3, **wanted).handler
    assert first == Committed(head=0, handlers=[made])
    assert second == Committed(head=0, handlers=[handler("three", 3).handler])


def test_pruned_results_move_the_floor(database):
    async def scene(commits, notified):
        await commits.publish(publish(event(), event()))
        for run in notified[0].runs:
            await settling(commits, settle(run.id, event=run.id), run)
        floor = Floor(1, digest(1, 1, 1, NOW + 20), 1)
        assert await commits.change(PruneResults(until=1)) == floor
        assert await commits.change(PruneResults(until=7)) == msgspec.structs.replace(floor, removed=0)

    *_, first, second = played(database, scene)
    floor = Position(1, digest(1, 1, 1, NOW + 20))
    assert [first, second] == [Committed(head=2, floor=floor)] * 2


def test_other_operations_change_nothing_for_listeners(database):
    operations = (
        (PruneEvents(trees=[[1]]), 0),
        (CreateKey(name="k", digest=b"d", scopes=[], now=NOW), 1),
        (RevokeKey(id=2, now=NOW), False),
        (OpenDurable(name="d", number=0, digest=0, now=NOW, most=5), Opened(0, 0, 1)),
        (Acknowledge(positions=[("d", 1, 2, 1)], now=NOW), Unmoved(["d"], [])),
        (DeleteDurable(name="e"), False),
        (Cancel(runs=[9], now=NOW), []),
    )

    async def scene(commits, notified):
        await commits.publish(publish(event()))
        for operation, reply in operations:
            assert await commits.change(operation) == reply
            assert unnumbered(notified[-1]) == Committed(head=0)

    played(database, scene)


def test_results_that_a_listener_does_not_get_are_in_the_store(database):
    """Cancelled runs leave results. A listener sees by the head that it has to read them."""

    async def scene(commits, notified):
        await commits.publish(publish(event(), event()))
        ending = settling(commits, settle(1), notified[0].runs[0])
        await commits.change(Cancel(runs=[2], now=NOW + 1))
        await ending
        assert (notified[-1].head, [result.number for result, _ in notified[-1].results]) == (2, [1])
        async with reading(database) as reader:
            kinds = [result.kind for result in await reader.results(0, 10, 1 << 20)]
            assert kinds == [Kind.SUCCEEDED, Kind.CANCELLED]
            assert (await reader.log_bounds())[1] == START

    played(database, scene)
