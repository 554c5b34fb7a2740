"""Reads return the right rows, in order, and use an index."""

from functools import partial

import pytest
from busway.domain import cursor
from busway.domain.cursor import Position
from busway.domain.pattern import matcher
from busway.domain.run import Error, RunState
from busway.gateway.store.port.operations import PruneResults
from busway.gateway.store.port.reader import EventQuery, RunQuery

from tests.store.kit import NOW, append, event, mark, publish, settle


def test_an_empty_log_begins_at_zero(store):
    assert store.read("log_bounds") == (cursor.START, cursor.START)
    assert store.read("position", 0) == cursor.START
    assert store.read("position", 1) is None


def test_the_head_is_the_position_of_the_newest_result(store):
    store.write(publish(event()), append(1, 0), settle(1))
    head, floor = store.read("log_bounds")
    assert head == Position(2, cursor.digest(2, 1, 1, NOW + 20)) == store.read("position", 2)
    assert floor == cursor.START
    assert [r.position for r in store.results()] == [store.read("position", 1), head]


def test_numbers_of_deleted_results_are_not_reused(store):
    store.write(publish(event(), event()), settle(1))
    store.write(PruneResults(until=1))
    store.write(settle(2))
    assert [r.number for r in store.results()] == [2]


def test_results_stop_at_the_limit_or_the_bytes(store):
    store.write(publish(event()), *[append(1, n) for n in range(10)])
    assert [r.number for r in store.read("results", 3, 4, 1 << 20)] == [4, 5, 6, 7]
    assert [r.number for r in store.read("results", 3, 4, 1)] == [4]
    assert store.read("results", 10, 4, 1 << 20) == []


def test_results_with_events_count_each_event_once(store):
    store.write(publish(event("a", data=b"1" * 3000), event("b", subject="s", attributes={"colour": "red"})))
    store.write(*[append(1, n) for n in range(4)], append(2, 0))

    def read(after, max_bytes):
        return store.read("results_with_events", after, 100, max_bytes)

    found = read(0, 1 << 20)
    assert [of.id for _, of in found] == ["a", "a", "a", "a", "b"]
    assert [of for _, of in found[3:]] == [store.read("event", 1), store.read("event", 2)]
    assert found[0][1] is found[3][1]
    assert [r.number for r, _ in read(0, 3500)] == [1, 2, 3]
    assert [r.number for r, _ in read(0, 100)] == [1]
    assert [r.number for r, _ in read(4, 100)] == [5]
    assert read(5, 100) == []
    assert [r for r, _ in found] == store.results()


def test_waiting_runs_are_ordered_by_priority_then_age(store):
    store.write(publish(*[event(priority=p) for p in (4, 9, 4, 0, 9)], event(due=NOW), event(handlers=(2,))))
    assert [r.id for r in store.read("waiting", 1, 10)] == [2, 5, 1, 3, 4]
    assert [r.id for r in store.read("waiting", 1, 2)] == [2, 5]
    store.write(mark(5), settle(2))
    assert [r.id for r in store.read("waiting", 1, 10)] == [1, 3, 4]


def test_deferred_runs_are_ordered_by_due_time(store):
    store.write(publish(event(due=NOW + 3), event(due=NOW + 1), event(due=NOW + 2), event()))
    assert [(r.id, r.due) for r in store.read("due", NOW + 2, 10)] == [(2, NOW + 1), (3, NOW + 2)]
    assert [r.id for r in store.read("due", NOW + 9, 1)] == [2]
    store.write(settle(2), settle(4, state=RunState.RETRYABLE, due=NOW + 2))
    assert [r.id for r in store.read("due", NOW + 9, 10)] == [3, 4, 1]


def test_a_waiting_run_has_its_event_and_attempts(store):
    store.write(
        publish(event("a", expires_at=NOW + 9, priority=7)), settle(1, state=RunState.RETRYABLE, lost=1)
    )
    [run] = store.read("waiting", 1, 10)
    assert (run.event.id, run.event.data, run.attempt, run.lost) == ("a", b'{"n":1}', 1, 1)
    assert (run.priority, run.expires_at, run.handler, run.due) == (7, NOW + 9, 1, None)


@pytest.mark.parametrize("others", [0, 1100], ids=["", "among many types"])
@pytest.mark.parametrize("pattern", ["a.b", "a.*", "a.**", "*.b", "**", "a.*.c", "x.*", "a.b.*"])
def test_events_are_found_by_pattern(store, pattern, others):
    types = ["a.b", "a.c", "a.b.c", "a.d.c", "b.b", "ab.c", "a", "a/b", "a-.b", "a.b"] * 3
    types += [f"{name}.{n}" for name in ("a", "x") for n in range(others)]
    store.write(publish(*[event(type_=type_) for type_ in types]))
    expected = [seq for seq in range(len(types), 0, -1) if matcher((pattern,))(types[seq - 1])]
    assert [e.seq for e in store.read("events", EventQuery(type=pattern), 3000)] == expected
    assert [e.seq for e in store.read("events", EventQuery(type=pattern, before=15), 3)] == [
        seq for seq in expected if seq < 15
    ][:3]


def test_events_are_found_by_each_attribute(store):
    store.write(
        publish(event("a", source="/x"), event("b", subject="s"), event("c", correlationid="a"), event("a"))
    )

    def found(**query):
        return [e.seq for e in store.read("events", EventQuery(**query), 10)]

    assert found(source="/x") == [1]
    assert found(subject="s") == [2]
    assert found(id="a") == [4, 1]
    assert found(correlationid="a") == [4, 3, 1]
    assert found(correlationid="a", type="order.*", source="/") == [4, 3]
    assert found(before=3) == [2, 1]


def test_runs_are_found_by_state_handler_and_event(store):
    store.write(publish(event(handlers=(1, 2)), event(), event(), event(due=NOW), event(), event()))
    store.write(mark(1), settle(3, state=RunState.DEAD), settle(4, state=RunState.RETRYABLE), settle(7))

    def found(**query):
        return [r.id for r in store.read("runs", RunQuery(**query), 10)]

    assert found() == [7, 6, 5, 4, 3, 2, 1]
    assert found(before=3) == [2, 1]
    assert found(state=RunState.AVAILABLE) == [6, 5, 2]
    assert found(state=RunState.RETRYABLE) == [4]
    assert found(state=RunState.RUNNING) == [1]
    assert found(state=RunState.SUCCEEDED) == [7]
    assert found(state=RunState.DEAD) == [3]
    assert found(handler="two") == [2]
    assert found(handler="none") == []
    assert found(event=1, state=RunState.AVAILABLE) == [2]


def test_counts_and_errors_are_kept_by_handler(store):
    store.write(publish(event(handlers=(1, 2)), event(), event()), mark(1), settle(3, state=RunState.DEAD))
    assert store.read("counts") == {1: {"running": 1, "dead": 1, "available": 1}, 2: {"available": 1}}
    assert store.read("last_errors") == {1: Error("ValueError", "bad")}


def test_results_of_a_correlation_id_are_found_from_where_its_last_run_ended(store):
    store.write(publish(event("a"), event("b", correlationid="a"), event("c"), event("other")))
    for index in range(1, 4):
        store.write(append(1, index), append(3, index))
    store.write(settle(1), settle(2), *(append(4, index) for index in range(1, 30)))
    read = partial(store.read, "correlated")
    found = read("a", 0, 37, 100, 1 << 20)
    seen = [(each.run, each.index) for each in found.results]
    assert seen == [(2, None), (1, None), (1, 3), (1, 2), (1, 1)]
    assert (found.until, found.reached) == (8, 0), "nothing above the last result of its runs"
    few = read("a", 0, 37, 2, 1 << 20)
    assert ([each.run for each in few.results], few.reached) == ([2, 1], 6)
    assert len(read("a", 0, 37, 100, 1).results) == 1
    assert [each.number for each in read("a", 0, few.reached, 100, 1 << 20).results] == [5, 3, 1]
    assert [each.number for each in read("a", 4, 6, 100, 1 << 20).results] == [5]
    assert read("c", 0, 37, 100, 1 << 20).until == 37, "its run has not ended"
    nothing = read("nobody", 0, 37, 100, 1 << 20)
    assert (nothing.results, nothing.until, nothing.reached) == ([], 0, 0)
