"""The outcome of an attempt is accepted once, with its results and events, or refused."""

from busway.domain.result import Kind
from busway.domain.run import Error, RunState
from busway.gateway.store.port.operations import Settled, StoredEvent

from tests.store.databases import ON_ALL
from tests.store.kit import NOW, append, event, mark, publish, report, settle

pytestmark = ON_ALL


def test_an_outcome_is_accepted_once(store):
    store.write(publish(event()))
    first, second = store.write(settle(1), settle(1, token=7))
    assert first == Settled(True, 1, b'{"succeeded":1}')
    assert second == Settled(False)
    assert len(store.results()) == 1


def test_an_outcome_of_an_attempt_that_is_not_next_is_refused(store):
    store.write(publish(event()))
    assert not store.write_one(settle(1, attempt=2)).accepted
    assert not store.write_one(settle(99)).accepted


def test_a_marked_run_accepts_only_the_outcome_of_its_token(store):
    store.write(publish(event()))
    assert store.write_one(mark(1, token=5))
    assert not store.write_one(mark(1, token=6))
    assert not store.write_one(settle(1, token=6)).accepted
    assert store.write_one(settle(1, token=5)).accepted


def test_events_of_a_refused_outcome_are_not_stored(store):
    store.write(publish(event()), settle(1), settle(1, token=7, published=[event("child", root=1, parent=1)]))
    assert store.read("event", 2) is None


def test_published_events_are_stored_with_the_outcome(store):
    store.write(publish(event("there")), publish(event()))
    published = [event("child", root=2, parent=2, correlationid="c"), event("there", root=2, parent=2)]
    settled = store.write_one(settle(2, root=2, published=published))
    assert settled.stored == [StoredEvent(3, 3), StoredEvent(1, 0, True)]
    [(parent, child)] = store.read("children", [1, 2, 3])
    assert (parent, child.id, child.root, child.correlationid) == (2, "child", 2, "c")


def test_partials_precede_the_outcome_and_none_follows_it(store):
    store.write(publish(event()))
    assert store.write(append(1, 0), append(1, 1), settle(1), append(1, 2))[3] == 0
    assert [(r.number, r.kind, r.index) for r in store.results()] == [
        (1, Kind.PARTIAL, 0),
        (2, Kind.PARTIAL, 1),
        (3, Kind.SUCCEEDED, None),
    ]


def test_partials_of_an_earlier_attempt_are_refused(store):
    store.write(publish(event()), mark(1), settle(1, state=RunState.RETRYABLE), mark(1, attempt=2))
    assert store.write_one(append(1, 0, attempt=1)) == 0
    assert store.write_one(append(1, 0, attempt=2)) > 0


def test_first_attempts_that_succeed_are_shown_alike_with_and_without_output(store):
    store.write(publish(event(), event()), settle(1), settle(2, report=report(log="a line\n")))
    (_, [plain]), (_, [logged]) = store.read("run", 1), store.read("run", 2)
    assert (plain.attempt, plain.outcome, plain.log) == (1, "succeeded", None)
    assert (plain.pool, plain.worker, plain.started_at, plain.finished_at) == (
        "process",
        99,
        NOW + 10,
        NOW + 20,
    )
    assert (logged.outcome, logged.log, logged.worker) == ("succeeded", "a line\n", 99)


def test_failed_attempts_and_the_running_one_are_shown_in_order(store):
    store.write(publish(event()), settle(1, state=RunState.RETRYABLE, due=NOW + 50), mark(1, attempt=2))
    run, attempts = store.read("run", 1)
    assert (run.state, run.attempt, run.error) == (RunState.RUNNING, 2, Error("ValueError", "bad"))
    assert [(a.attempt, a.outcome) for a in attempts] == [(1, "failed"), (2, None)]
    assert attempts[0].error == Error("ValueError", "bad", "Traceback …")
    assert attempts[1].finished_at is None
    store.write(settle(1, attempt=2))
    run, attempts = store.read("run", 1)
    assert (run.state, run.error, run.max_attempts) == (RunState.SUCCEEDED, None, 5)
    assert [(a.attempt, a.outcome) for a in attempts] == [(1, "failed"), (2, "succeeded")]


def test_a_resent_operation_gets_its_reply_again_and_is_written_once(store):
    store.write(publish(event()))
    said = [
        mark(1, token=5),
        append(1, 0, token=5),
        append(1, 1, token=5),
        settle(1, token=5, root=1, published=[event(root=1, parent=1)]),
    ]
    first = store.write(*said, since=0)
    again = store.write(*said[1:], append(1, 1), since=0)
    assert again[:2] == first[1:3] == [1, 2]
    assert again[2].accepted
    assert (again[2].number, again[2].completes) == (3, None)
    assert again[2].stored == [StoredEvent(2, 0, True)]
    assert [r.number for r in store.results()] == [1, 2, 3]


def test_a_resent_mark_is_accepted(store):
    store.write(publish(event()))
    assert store.write(mark(1), mark(1)) == [True, True]


def test_results_show_their_event_and_handler(store):
    store.write(publish(event("a", subject="s", correlationid="c")), settle(1))
    [result] = store.results()
    assert (result.event.id, result.event.subject, result.event.correlationid) == ("a", "s", "c")
    assert (result.handler, result.data, result.binary) == ("one", b'"done"', False)
