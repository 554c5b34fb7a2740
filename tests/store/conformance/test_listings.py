"""Listings with all their arguments: limits, bytes, pages and order."""

import pytest
from busway.domain.cursor import START
from busway.domain.handler import Handler
from busway.domain.run import Error, Outcome, RunState
from busway.gateway.store.core import listings
from busway.gateway.store.port.operations import OpenDurable, PruneResults, SaveHandler
from busway.gateway.store.port.reader import (
    DurableRecord,
    EventQuery,
    Layer,
    OldRoots,
    RevisionRecord,
    RunQuery,
)

from tests.store.kit import NOW, append, event, handler, mark, publish, report, settle

DATA = b'"%s"' % (b"x" * 998)  # 1,000 bytes
SMALL, LARGE = 2_500, 25_000  # bytes for two or three rows with DATA, and for twenty


def page_by_page(read, number):
    """Return the numbers of all pages. `read` returns the page after a number."""
    found, after = [], None
    while rows := read(after):
        found.append([number(row) for row in rows])
        after = found[-1][-1]
    return found


def test_pages_of_events_have_each_event_once(store):
    store.write(publish(*[event(data=DATA) for _ in range(7)]))

    def read(before):
        return store.read("events", EventQuery(before=before), 3)

    assert page_by_page(read, lambda each: each.seq) == [[7, 6, 5], [4, 3, 2], [1]]


def test_events_stop_at_the_bytes_but_there_is_one(store):
    store.write(publish(*[event(data=DATA, type_=f"t.{n % 2}") for n in range(20)]))

    def found(max_bytes, **query):
        return [each.seq for each in store.read("events", EventQuery(**query), 100, max_bytes)]

    assert found(1) == [20]
    assert len(found(SMALL)) in (2, 3)
    assert found(LARGE) == list(range(20, 0, -1))
    assert found(1, type="t.*", before=19) == [18]
    assert len(found(SMALL, type="t.0")) in (2, 3)
    assert found(LARGE, type="t.0") == list(range(19, 0, -2))


@pytest.mark.parametrize("many", [1_000, 2])
def test_events_are_found_within_patterns(store, monkeypatch, many):
    monkeypatch.setattr(listings, "MANY_TYPES", many)  # above this number of types, events are scanned
    types = ["a.x", "b.x", "a.y", "c", "b.y.z", "a.z", "a.x"]
    store.write(publish(*[event(data=DATA, type_=type_) for type_ in types]))

    def found(*within, limit=100, **query):
        return [each.seq for each in store.read("events", EventQuery(within=within, **query), limit)]

    assert found("a.*", "c") == [7, 6, 4, 3, 1]
    assert found("a.*", "c", limit=2, before=7) == [6, 4]
    assert found("a.*", type="*.x") == found("a.*", type="*.x", limit=2) == [7, 1]
    assert found("a.*", "b.**", type="a.x") == [7, 1]
    assert found("a.*", type="c") == found("a.*", type="b.**") == found("nothing") == []
    assert found("**", type="**") == [7, 6, 5, 4, 3, 2, 1]
    assert store.read("event_types", [2, 5, 99]) == {2: "b.x", 5: "b.y.z"}


def test_events_are_found_by_all_conditions_at_once(store):
    new = [
        event(
            f"{n % 4}",
            source=f"/{n // 4 % 2}",
            subject=f"s{n % 2}",
            type_=f"t.{n % 3}",
            correlationid=f"c{n % 2}",
        )
        for n in range(24)
    ]
    stored = store.write_one(publish(*new))
    first = {one.seq for one in stored if not one.duplicate}
    found = store.read(
        "events",
        EventQuery(type="t.*", source="/1", subject="s0", id="2", correlationid="c0", before=20),
        10,
    )
    wanted = [
        seq
        for seq, (one, each) in enumerate(zip(stored, new, strict=True), 1)
        if not one.duplicate and (each.source, each.subject, each.id) == ("/1", "s0", "2")
    ]
    assert {each.seq for each in found} == set(wanted) & first
    assert found


def test_pages_of_runs_have_each_run_once(store):
    store.write(publish(*[event(handlers=(1, 2)) for _ in range(4)]))
    store.write(*[settle(run, state=RunState.DEAD) for run in (1, 3, 5, 7)])

    def read(before, **query):
        return store.read("runs", RunQuery(before=before, **query), 3)

    def number(run):
        return run.id

    assert page_by_page(read, number) == [[8, 7, 6], [5, 4, 3], [2, 1]]
    assert page_by_page(lambda b: read(b, state=RunState.DEAD), number) == [[7, 5, 3], [1]]
    assert page_by_page(lambda b: read(b, handler="two", state=RunState.AVAILABLE), number) == [
        [8, 6, 4],
        [2],
    ]
    assert page_by_page(lambda b: read(b, event=2), number) == [[4, 3]]


def test_runs_stop_at_the_bytes_but_there_is_one(store):
    wrong = Error("E", "m" * 1000)
    store.write(publish(*[event() for _ in range(20)]))
    store.write(
        *[settle(n, state=RunState.DEAD, report=report(Outcome.FAILED, error=wrong)) for n in range(1, 21)]
    )
    for query in (RunQuery(), RunQuery(state=RunState.DEAD), RunQuery(handler="one")):
        assert [run.id for run in store.read("runs", query, 100, 1)] == [20]
        assert len(store.read("runs", query, 100, SMALL)) in (2, 3)
        assert len(store.read("runs", query, 100, LARGE)) == 20
    every = list(range(1, 21))
    assert [run.id for run in store.read("runs_of", every, 0, 100, 1)] == [1]
    assert len(store.read("runs_of", every, 0, 100, SMALL)) in (2, 3)
    assert [run.id for run in store.read("runs_of", every, 0, 100, LARGE)] == every


def test_runs_of_events_continue_after_a_run(store):
    store.write(publish(*[event(handlers=(1, 2)) for _ in range(5)]))
    assert [run.id for run in store.read("runs_of", [5, 1, 3, 99])] == [1, 2, 5, 6, 9, 10]
    assert [run.id for run in store.read("runs_of", [5, 1, 3], 2, 3)] == [5, 6, 9]
    assert [run.id for run in store.read("runs_of", [5, 1, 3], 9, 3)] == [10]
    assert store.read("runs_of", []) == []


def test_published_events_continue_after_an_event_and_stop_at_the_bytes(store):
    store.write(publish(event(), event()))
    for run in (1, 2):
        children = [event(root=run, parent=run, data=DATA, handlers=()) for _ in range(10)]
        store.write(settle(run, event=run, root=run, published=children))
    assert [(run, each.seq) for run, each in store.read("children", [2, 1, 77])] == [
        *((1, seq) for seq in range(3, 13)),
        *((2, seq) for seq in range(13, 23)),
    ]
    assert [each.seq for _, each in store.read("children", [2], 15, 3)] == [16, 17, 18]
    assert [each.seq for _, each in store.read("children", [1, 2], 11, 100, 1)] == [12]
    assert len(store.read("children", [1, 2], 0, 100, SMALL)) in (2, 3)
    assert store.read("children", [1, 2], 22) == store.read("children", []) == []


def test_results_stop_at_the_bytes_but_there_is_one(store):
    store.write(publish(event()))
    partials = [append(1, n) for n in range(20)]
    for partial in partials:
        partial.result.data = DATA
    store.write(*partials)
    assert [r.number for r in store.read("results", 5, 100, 1)] == [6]
    assert len(store.read("results", 5, 100, SMALL)) in (2, 3)
    assert [r.number for r in store.read("results", 5, 100, LARGE)] == list(range(6, 21))
    assert len(store.read("results_with_events", 5, 100, SMALL)) in (2, 3)


def test_results_begin_after_the_floor(store):
    store.write(publish(event()), *[append(1, n) for n in range(6)])
    store.write(PruneResults(until=4))
    assert [r.number for r in store.read("results", 0, 100, 1 << 20)] == [5, 6]
    assert [r.number for r in store.read("results", 5, 100, 1 << 20)] == [6]
    head, floor = store.read("log_bounds")
    assert (floor.number, head.number) == (4, 6)
    positions = [store.read("position", number) for number in (0, 3, 4, 5, 6, 7)]
    assert positions == [None, None, floor, store.results()[0].position, head, None]
    assert START not in positions


def test_attempts_of_a_run_are_in_order_and_old_ones_may_lack_log_and_traceback(store):
    text = "ä" * 100_000
    store.write(publish(event()))
    for number in range(1, 61):
        failed = report(
            Outcome.FAILED, log=text, error=Error("E", f"m{number}", text), cpu_time=0.5, wall_time=1.5,
            peak_memory=number, pool="thread", revision=number,
        )  # fmt: skip
        store.write(settle(1, number, RunState.RETRYABLE, report=failed))
    run, attempts = store.read("run", 1)
    assert (run.attempt, run.error) == (60, Error("E", "m60"))
    assert [a.attempt for a in attempts] == list(range(1, 61))
    assert {(a.outcome, a.cpu_time, a.wall_time, a.pool, a.worker) for a in attempts} == {
        ("failed", 0.5, 1.5, "thread", 99)
    }
    assert [(a.peak_memory, a.revision) for a in attempts] == [(n, n) for n in range(1, 61)]
    assert [(a.error.type, a.error.message) for a in attempts] == [("E", f"m{n}") for n in range(1, 61)]
    whole = [a.attempt for a in attempts if a.log is not None]
    assert whole == [a.attempt for a in attempts if a.error.traceback is not None]
    assert whole == list(range(61 - len(whole), 61))
    assert 1 <= len(whole) < 60
    assert attempts[-1].log == attempts[-1].error.traceback == text


@pytest.mark.parametrize(
    "text", ["a" * 60_000, "ä" * 30_000, "\0" * 60_000], ids=["ASCII", "not ASCII", "NUL"]
)
def test_logs_of_a_run_are_counted_in_bytes(store, text):
    store.write(publish(event()))
    attempts = 90  # 5.4 MB
    store.write(
        *[
            settle(1, n, RunState.RETRYABLE, report=report(Outcome.FAILED, log=text))
            for n in range(1, attempts + 1)
        ]
    )
    logs = [attempt.log for attempt in store.read("run", 1)[1]]
    assert len(logs) == attempts
    assert 1 <= logs.count(text) < attempts
    assert logs.count(None) == attempts - logs.count(text)
    assert logs[-1] == text


def test_a_marked_attempt_is_shown_with_what_is_known_of_it(store):
    store.write(publish(event()), mark(1))
    run, (attempt,) = store.read("run", 1)
    assert (run.state, run.attempt, run.revision, run.finished_at) == (RunState.RUNNING, 1, 1, None)
    assert (attempt.outcome, attempt.started_at, attempt.finished_at) == (None, NOW + 5, None)
    assert (attempt.pool, attempt.worker, attempt.cpu_time, attempt.log) == ("process", 99, None, None)


def test_a_run_that_never_started_has_no_attempt(store):
    store.write(publish(event(due=NOW + 9)))
    run, attempts = store.read("run", 1)
    assert (run.revision, run.attempt, run.max_attempts, run.available_at) == (None, 0, None, NOW + 9)
    assert attempts == []
    assert store.read("run", 2) is None


def test_handlers_are_listed_with_all_fields(store):
    made = Handler(
        id=0, name="a", revision=3, declared={"target": "a:b"}, overrides={"timeout": 1.5}, file_digest="d",
        missing=True, deleted=True, created_at=5, updated_at=6,
    )  # fmt: skip
    assert store.write_one(SaveHandler(handler=made, fields={"target": "a:b"})) == 3
    changed = Handler(id=1, name="one", revision=2, overrides={"paused": True}, updated_at=7)
    store.write(SaveHandler(handler=changed, fields={"target": "c:d"}))
    found = store.read("handlers")
    assert [h.id for h in found] == [1, 2, 3]
    assert found[0] == changed
    assert found[2] == Handler(**{**{f: getattr(made, f) for f in made.__struct_fields__}, "id": 3})
    assert store.read("revisions", 1) == [
        RevisionRecord(revision=2, created_at=7, fields={"target": "c:d"}, file_digest=""),
        RevisionRecord(revision=1, created_at=0, fields={"target": "a:b"}, file_digest=""),
    ]
    assert store.read("revisions", 99) == []


def test_revisions_are_listed_in_pages_and_stop_at_the_bytes(store):
    for revision in range(2, 12):
        changed = Handler(id=1, name="one", revision=revision)
        store.write(SaveHandler(handler=changed, fields={"target": "x" * 1000}))

    def numbers(*arguments):
        return [each.revision for each in store.read("revisions", 1, *arguments)]

    assert numbers() == list(range(11, 0, -1))
    assert numbers(None, 3) == [11, 10, 9]
    assert numbers(9, 3) == [8, 7, 6]
    assert numbers(2, 3) == [1]
    assert numbers(None, 5, 2_000) == [11, 10]
    assert numbers(None, 5, 1) == [11]


def test_a_handler_may_take_the_name_that_another_gave_up(store):
    store.write(handler("renamed", 1))
    store.write(handler("one", 2))
    assert [h.name for h in store.read("handlers")] == ["renamed", "one"]
    store.write(publish(event(handlers=(1, 2))))
    assert [run.handler for run in store.read("runs_of", [1])] == ["renamed", "one"]


def test_the_newest_error_of_each_handler_is_kept(store):
    store.write(publish(*[event(handlers=(1, 2)) for _ in range(3)]))

    def failed(run, message, **fields):
        outcome = report(Outcome.FAILED, error=Error("E", message, "trace"))
        return settle(run, state=RunState.DEAD, report=outcome, **fields)

    store.write(failed(1, "first"), failed(2, "of two", handler=2), failed(3, "second"))
    store.write(settle(5))
    assert store.read("last_errors") == {1: Error("E", "second"), 2: Error("E", "of two")}


def test_a_durable_name_is_shown_with_all_fields(store):
    store.write(publish(event()), append(1, 0))
    position = store.read("position", 1)
    store.write(OpenDurable(name="a", number=1, digest=position.digest, now=NOW, most=5, key=3))
    record = DurableRecord(name="a", position=position, created_at=NOW, acknowledged_at=None)
    assert store.read("durable", "a") == record
    assert store.read("durables", "", 10) == [record]
    assert store.read("durables", "a", 10) == store.read("durables", "", 0) == []


def test_waiting_runs_are_limited_by_number_and_bytes_together(store):
    store.write(publish(*[event(data=DATA, priority=n % 3) for n in range(9)]))
    assert [run.id for run in store.read("waiting", 1, 4, max_bytes=LARGE)] == [3, 6, 9, 2]
    assert [run.id for run in store.read("waiting", 1, 4, max_bytes=1)] == [3]
    assert store.read("waiting", 2, 4) == store.read("waiting", 1, 0) == []


def test_due_runs_are_between_two_times_and_by_time_then_number(store):
    dues = [5, 3, 3, 9, 1]
    store.write(publish(*[event(due=NOW + n, handlers=(1 + n % 2,)) for n in dues]))
    assert [run.id for run in store.read("due", NOW + 9, 10)] == [5, 2, 3, 1, 4]
    assert [run.id for run in store.read("due", NOW + 5, 10, after=NOW + 1)] == [2, 3, 1]
    assert [run.id for run in store.read("due", NOW + 9, 2, after=NOW + 1)] == [2, 3]
    assert store.read("due", NOW + 99, 10, after=NOW + 9) == []


def test_old_results_are_examined_up_to_a_number_and_bytes(store):
    store.write(publish(event()))
    for n, time in enumerate((1, 2, 9, 3, 9, 9)):
        partial = append(1, n)
        partial.result.time, partial.result.data = time, DATA
        store.write(partial)
    assert store.read("old_results", 5, 100, 1 << 20) == 4
    assert store.read("old_results", 5, 2, 1 << 20) == 2
    assert store.read("old_results", 5, 100, 1) == 1
    assert store.read("old_results", 1, 100, 1 << 20) is None
    store.write(PruneResults(until=4))
    assert store.read("old_results", 5, 100, 1 << 20) is None
    assert store.read("old_results", 10, 100, 1 << 20) == 6


def test_old_roots_are_examined_in_pages(store):
    old, young = {"accepted_at": NOW - 9}, {"accepted_at": NOW}
    store.write(publish(*[event(data=DATA, **(young if n == 2 else old)) for n in range(6)]))
    store.write(settle(1, root=1, published=[event(root=1, parent=1, handlers=(), **old)]))
    store.write(publish(event(**young), event(**young)))
    first = store.read("old_roots", 0, NOW - 1, 4)
    assert ([seq for seq, _ in first.roots], first.next) == ([1, 2, 4], 4)
    assert all(1000 <= size <= 2000 for _, size in first.roots)
    second = store.read("old_roots", 4, NOW - 1, 4)
    assert ([seq for seq, _ in second.roots], second.next) == ([5, 6], 8)
    assert store.read("old_roots", 8, NOW - 1, 4) == OldRoots([], None)
    assert store.read("old_roots", 0, NOW - 99, 4) == OldRoots([], None)


def test_a_layer_has_what_must_stay_and_what_was_published(store):
    store.write(publish(*[event() for _ in range(4)]))
    old, young = event(root=1, parent=1, data=DATA), event(root=2, parent=2, accepted_at=NOW + 9)
    store.write(settle(1, root=1, published=[old]), settle(2, event=2, root=2, published=[young]))
    store.write(settle(3, event=3, root=3), PruneResults(until=3))
    layer = store.read("layer", [1, 2, 3, 4], NOW + 5)
    assert layer.kept == {2, 4}  # a published event is young; a run waits
    (_, _, size), *_ = layer.children
    assert sorted((parent, seq) for parent, seq, _ in layer.children) == [(1, 5), (2, 6)]
    assert size >= 1000
    assert store.read("layer", [3], NOW + 5) == Layer(set(), [])
    assert store.read("layer", [], NOW) == Layer(set(), [])
