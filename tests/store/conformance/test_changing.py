"""Changes of runs outside of attempts: cancel, expire, retry, rescue."""

from busway.domain.result import Kind
from busway.domain.run import Error, RunState
from busway.gateway.errors import Conflict
from busway.gateway.store.port.operations import (
    Cancel,
    CancelWaiting,
    Expire,
    Lead,
    Retried,
    Retry,
    RetryDead,
)

from tests.store.kit import NOW, event, handler, mark, publish, settle

GONE = Error("HandlerDeleted", "the handler was deleted")


def states(store, *ids):
    return [store.read("run", id_)[0].state for id_ in ids]


def test_cancel_ends_unfinished_runs_with_a_result_each(store):
    store.write(publish(*[event() for _ in range(4)]), settle(1), mark(2))
    assert store.write_one(Cancel(runs=[1, 2, 3, 99], now=NOW)) == [2, 3]
    assert [(r.run, r.kind, r.attempt) for r in store.results()[1:]] == [
        (2, Kind.CANCELLED, 1),
        (3, Kind.CANCELLED, 0),
    ]
    assert states(store, 1, 2, 3, 4) == [
        RunState.SUCCEEDED,
        RunState.CANCELLED,
        RunState.CANCELLED,
        RunState.AVAILABLE,
    ]
    assert [(a.attempt, a.outcome) for a in store.read("run", 2)[1]] == [(1, "cancelled")]
    assert store.read("run", 3)[1] == []


def test_the_outcome_of_a_cancelled_run_is_refused(store):
    store.write(publish(event()), mark(1), Cancel(runs=[1], now=NOW))
    assert not store.write_one(settle(1)).accepted


def test_waiting_runs_of_a_handler_are_cancelled_in_steps(store):
    store.write(
        publish(*[event() for _ in range(4)], event(due=NOW + 1), event(handlers=(2,))), mark(1), settle(2)
    )
    step = CancelWaiting(handler=1, error=GONE, now=NOW, limit=2)
    assert [sorted(store.write_one(step)) for _ in range(3)] == [[3, 4], [5], []]
    assert {r.error for r in store.results() if r.kind is Kind.CANCELLED} == {
        ("HandlerDeleted", GONE.message)
    }
    assert states(store, 1, 2, 6) == [RunState.RUNNING, RunState.SUCCEEDED, RunState.AVAILABLE]


def test_runs_without_an_attempt_expire(store):
    late = {"expires_at": NOW + 10}
    store.write(
        publish(
            event(**late), event(**late), event(**late, due=NOW + 99), event(expires_at=NOW + 20), event()
        )
    )
    store.write(mark(1), settle(2, state=RunState.RETRYABLE))
    assert store.read("next_expiry") == NOW + 10
    assert store.write_one(Expire(error=GONE, now=NOW + 9, limit=9)) == []
    assert store.write_one(Expire(error=GONE, now=NOW + 10, limit=9)) == [3]
    assert store.read("next_expiry") == NOW + 20


def test_a_retry_grants_as_many_attempts_again(store):
    store.write(publish(event()), settle(1, state=RunState.RETRYABLE), settle(1, 2, RunState.DEAD, lost=1))
    assert store.write_one(Retry(runs=[1], now=NOW + 30)) == Retried([1])
    [run] = store.read("waiting", 1, 10)
    assert (run.attempt, run.lost, run.granted) == (2, 1, 1)
    record = store.read("run", 1)[0]
    assert (record.state, record.available_at, record.finished_at) == (RunState.AVAILABLE, NOW + 30, None)


def test_a_retry_makes_a_deferred_run_due_now(store):
    store.write(publish(event()), settle(1, state=RunState.RETRYABLE, due=NOW + 999))
    assert store.read("waiting", 1, 10) == []
    [forward] = store.write_one(Retry(runs=[1], now=NOW + 30)).runs
    assert (forward.id, forward.event.data, forward.granted) == (1, b'{"n":1}', 1)
    assert [run.due for run in store.read("waiting", 1, 10)] == [None]
    assert store.read("due", NOW + 9999, 10) == []


def test_a_retry_does_not_change_other_runs(store):
    store.write(publish(event(), event(), event()), settle(1), mark(2))
    assert store.write_one(Retry(runs=[1, 2, 3, 4], now=NOW)) == Retried([])


def test_a_first_attempt_that_succeeds_clears_earlier_values(store):
    """Usually only some columns of such a row are written. Here another one must change, too."""
    store.write(publish(event(), event(), event(due=NOW + 9)))
    store.write(Cancel(runs=[1], error=Error("Cancelled", "by hand"), now=NOW + 1))
    store.write(Retry(runs=[1], now=NOW + 2), mark(2))
    measured = settle(2, token=2001)
    measured.report.peak_memory = 5_000
    store.write(settle(1, fence=-NOW - 2), measured, settle(3))
    found = [store.read("run", id_) for id_ in (1, 2, 3)]
    assert [(run.state, run.attempt, run.error, run.available_at, run.finished_at) for run, _ in found] == [
        (RunState.SUCCEEDED, 1, None, at, NOW + 20) for at in (NOW + 2, NOW, NOW + 9)
    ]
    assert [(a.started_at, a.finished_at, a.peak_memory) for _, (a,) in found] == [
        (NOW + 10, NOW + 20, memory) for memory in (None, 5_000, None)
    ]


def test_runs_of_deleted_handlers_are_not_retried(store):
    store.write(
        publish(event(), event(handlers=(2,))), settle(1, state=RunState.DEAD), settle(2, state=RunState.DEAD)
    )
    store.write(handler("one", 1, deleted=True))
    assert store.write_one(Retry(runs=[1], now=NOW)) == Retried([])
    assert store.write_one(RetryDead(state=RunState.DEAD, handler=None, now=NOW, limit=10)) == [2]


def test_dead_runs_are_retried_by_handler_in_steps(store):
    store.write(publish(*[event() for _ in range(3)], event(handlers=(2,))))
    store.write(*[settle(run, state=RunState.DEAD) for run in (1, 2, 3, 4)])
    step = RetryDead(state=RunState.DEAD, handler=1, now=NOW, limit=2)
    assert [store.write_one(step) for _ in range(3)] == [[1, 2], [3], []]
    assert store.write_one(RetryDead(state=RunState.CANCELLED, handler=None, now=NOW, limit=2)) == []


def test_retrying_continues_after_a_run_and_skips_runs_that_died_again(store):
    store.write(publish(event(), event(), event()), *[settle(n, state=RunState.DEAD) for n in (1, 2, 3)])
    step = RetryDead(state=RunState.DEAD, handler=None, now=NOW, limit=2)
    assert store.write_one(step) == [1, 2]
    store.write(settle(1, attempt=2, state=RunState.DEAD, fence=-NOW))
    assert store.write_one(RetryDead(state=RunState.DEAD, handler=None, now=NOW, limit=2, after=2)) == [3]
    assert store.write_one(step) == [1]


def test_rescue_counts_running_attempts_as_lost(store):
    store.write(publish(event(), event()), mark(1))
    assert store.write_one(Lead(now=NOW + 60, max_losses=10)) == [1]
    [run, _] = store.read("waiting", 1, 10)
    assert (run.id, run.attempt, run.lost) == (1, 1, 1)
    [lost] = store.read("run", 1)[1]
    assert (lost.attempt, lost.outcome, lost.worker, lost.finished_at) == (1, "lost", 99, NOW + 60)
    [result] = store.results()
    assert (result.run, result.kind, result.attempt, result.index) == (1, Kind.LOST, 1, None)
    assert (result.error[0], result.completes, result.time) == ("Lost", None, NOW + 60)
    assert store.write_one(Lead(now=NOW + 61, max_losses=10)) == []
    assert len(store.results()) == 1
    assert not store.write_one(settle(1)).accepted
    assert store.write_one(settle(1, attempt=2)).accepted


def test_a_run_with_too_many_lost_attempts_is_dead(store):
    store.write(publish(event()))
    for attempt in (1, 2, 3):
        store.write(mark(1, attempt), Lead(now=NOW, max_losses=3))
    assert states(store, 1) == [RunState.DEAD]
    *earlier, result = store.results()
    assert [(r.kind, r.attempt, r.completes) for r in earlier] == [(Kind.LOST, n, None) for n in (1, 2)]
    assert (result.kind, result.attempt, result.completes) == (Kind.DEAD, 3, b'{"dead":1}')
    assert [a.outcome for a in store.read("run", 1)[1]] == ["lost"] * 3


def test_a_handler_keeps_its_revisions_and_its_name_is_unique(store):
    number = store.write_one(handler("three", revision=1, updated_at=5))
    store.write(
        handler("three", number, revision=2, updated_at=6), handler("three", number, revision=2, updated_at=7)
    )
    assert [(r.revision, r.created_at) for r in store.read("revisions", number)] == [(2, 6), (1, 5)]
    assert isinstance(store.write(handler("three"))[0], Conflict)
    kept = store.read("handlers")[-1]
    assert (kept.id, kept.name, kept.revision, kept.updated_at) == (number, "three", 2, 7)
