"""Retention: which rows are deleted, which stay, and what readers and numbers show afterwards."""

import asyncio
import os
import random

import pytest
from busway.domain.run import UNFINISHED, RunState
from busway.gateway.dispatch import retention
from busway.gateway.dispatch.retention import Retention
from busway.gateway.store.port.operations import (
    CreateReplay,
    FinishReplay,
    PruneEvents,
    PruneResults,
    ReplayEvents,
    Retry,
)
from busway.gateway.store.port.reader import EventQuery, RunQuery

from tests.store.kit import NOW, Store, append, committing, event, publish, reading, run_of, settle, settling

DAY = 86_400 * 1_000_000
KEPT = 7 * 86_400
LATER = NOW + 8 * DAY


class Direct:
    """Commits that use the writer of a test's store, so that a sweep needs no process."""

    def __init__(self, store):
        self.store = store
        self.steps = []

    def change(self, operation):
        future = asyncio.get_running_loop().create_future()
        self.steps.append(operation)
        future.set_result(self.store.write_one(operation))
        return future


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch):
    monkeypatch.setattr(retention, "PAUSE", 0)
    monkeypatch.setattr(retention, "SHARE", 0)


def sweep(store, now=LATER):
    """Sweep as if it were `now` and return the steps."""
    commits = Direct(store)
    store.run(Retention(commits, store.reader, KEPT, lambda: now).sweep())
    return commits.steps


def events_of(store):
    return [event_.seq for event_ in reversed(store.read("events", EventQuery(), 10_000))]


def finish(store, *events_, first_run=1):
    """Store events of one run each and let the runs succeed."""
    store.write_one(publish(*events_))
    store.write(*(settle(first_run + n, event=first_run + n) for n in range(len(events_))))


def test_finished_old_events_are_deleted_with_all_rows(store):
    finish(store, event(), event())
    store.write_one(publish(event(handlers=())))
    sweep(store)
    assert (events_of(store), store.results(), store.read("counts")) == ([], [], {})
    assert [store.read("run", id_) for id_ in (1, 2)] == [None, None]


def test_a_finished_replay_is_removed_after_its_runs_unless_it_is_the_newest(store):
    finish(store, event())
    bounds = {"handler": 1, "types": ["**"], "after": 0, "before": 2, "shadow": False, "now": NOW}
    for replay in (1, 2):
        store.write_one(CreateReplay(**bounds, most=9))
        store.write_one(ReplayEvents(replay=replay, events=[1], after=0, until=1, now=NOW))
        store.write_one(settle(1 + replay))
        assert store.write_one(FinishReplay(replay=replay, now=NOW + replay))
    assert sweep(store, NOW + 6 * DAY) == []
    sweep(store)
    assert [replay.id for replay in store.read("replays", None, 9, 9)] == [2]
    assert sweep(store) == []


def test_young_events_stay(store):
    finish(store, event(), event())
    assert sweep(store, NOW + 6 * DAY) == []
    assert events_of(store) == [1, 2]
    assert len(store.results()) == 2


@pytest.mark.parametrize("state", [RunState.RETRYABLE, RunState.AVAILABLE])
def test_an_event_with_an_unfinished_run_stays_without_its_results(store, state):
    finish(store, event())
    store.write_one(publish(event()))
    store.write_one(
        settle(2, event=2, state=RunState.RETRYABLE) if state is RunState.RETRYABLE else append(2, 0)
    )
    sweep(store)
    assert events_of(store) == [2]
    record, attempts = store.read("run", 2)
    assert record.state is state
    assert len(attempts) == (state is RunState.RETRYABLE)
    assert store.results() == []


def test_one_unfinished_run_keeps_its_whole_tree(store):
    store.write_one(publish(event(), event()))
    store.write_one(settle(1, event=1, published=[event(root=1, parent=1), event(root=1, parent=1)]))
    store.write_one(settle(2, event=2, published=[event(root=2, parent=2)]))
    store.write(settle(3, event=3, root=1), settle(5, event=5, root=2))
    sweep(store)
    assert events_of(store) == [1, 3, 4]  # run 4 waits
    store.write_one(settle(4, event=4, root=1))
    sweep(store)
    assert events_of(store) == []


def test_a_young_event_keeps_its_tree(store):
    store.write_one(publish(event()))
    young = event(root=1, parent=1, handlers=(), accepted_at=NOW + 5 * DAY)
    store.write_one(settle(1, event=1, published=[young]))
    sweep(store)
    assert events_of(store) == [1, 2]
    sweep(store, NOW + 13 * DAY)
    assert events_of(store) == []


def test_an_event_stays_while_one_of_its_results_is_stored(store):
    store.write_one(publish(event()))
    done = settle(1, event=1)
    done.result.time = done.report.finished_at = NOW + 5 * DAY
    store.write_one(done)
    sweep(store)
    assert events_of(store) == [1]
    assert [result.event.seq for result in store.results()] == [1]
    assert store.read("run", 1)[0].state is RunState.SUCCEEDED


def test_a_clock_that_goes_back_makes_no_hole_in_the_log(store):
    store.write_one(publish(event(), event(), event(), event()))

    def finish_at(run, time):
        ended = settle(run, event=run)
        ended.result.time = time
        store.write_one(ended)

    for run, time in ((1, NOW), (2, LATER), (3, NOW)):
        finish_at(run, time)
    sweep(store)
    assert store.results() == []  # a result between two old ones counts as old, too
    finish_at(4, LATER)
    sweep(store)
    assert [result.number for result in store.results()] == [4]
    assert events_of(store) == [4]


def test_a_run_that_is_retried_in_time_stays(store):
    finish(store, event())
    store.write_one(publish(event()))
    store.write_one(settle(2, event=2, state=RunState.DEAD))
    store.run(
        Retention(Direct(store), store.reader, KEPT, lambda: LATER)._prune_results(LATER - KEPT * 10**6)
    )
    retried, pruned = store.write(Retry(runs=[2], now=LATER), PruneEvents(trees=[[1], [2]]))
    assert (retried.ids, pruned) == ([2], 1)
    assert events_of(store) == [2]
    assert store.read("counts") == {1: {"available": 1}}


def test_counts_match_the_remaining_runs(store):
    finish(store, event(), event())
    young = event(accepted_at=LATER)
    store.write_one(publish(young))
    sweep(store)
    assert store.read("counts") == {1: {"available": 1}}


def test_numbers_continue_after_pruning_everything_and_a_restart(database):
    first = Store(database)
    finish(first, event(), event())
    head, _ = first.read("log_bounds")
    sweep(first)
    assert first.read("log_bounds") == (head, head)
    first.close()

    async def scene():
        async with committing(database) as commits:
            stored = await commits.publish(publish(event()))
            assert (stored[0].seq, stored[0].first_run) == (3, 3)
            run = run_of(3, event(), 3)
            settled = await settling(commits, settle(3, event=3), run)
            assert settled.number == 3
            async with reading(database) as reader:
                assert [result.number for result in await reader.results(2, 10, 1 << 20)] == [3]
                assert await reader.position(head.number) == head
                assert await reader.position(1) is None

    asyncio.run(scene())


def test_a_duplicate_is_detected_until_the_first_event_is_deleted(store):
    finish(store, event("mine"))
    assert store.write_one(publish(event("mine")))[0].duplicate
    sweep(store)
    again = store.write_one(publish(event("mine")))[0]
    assert (again.duplicate, again.seq) == (False, 2)


def test_readers_see_only_remaining_rows(store):
    finish(store, event(), event())
    store.write_one(publish(event(accepted_at=LATER), event(accepted_at=LATER)))
    sweep(store)
    assert store.read("event", 1) is None
    assert store.read("run", 1) is None
    assert [e.seq for e in store.read("events", EventQuery(), 10)] == [4, 3]
    assert store.read("events", EventQuery(before=3), 10) == []
    assert [r.id for r in store.read("runs", RunQuery(before=4), 10)] == [3]
    assert store.read("runs_of", [1, 2, 3]) == store.read("runs", RunQuery(event=3), 10)
    assert store.read("totals") == (4, 2)


def test_a_large_tree_is_deleted_from_its_leaves(store, monkeypatch):
    monkeypatch.setattr(retention, "STEP_EVENTS", 3)
    store.write_one(publish(event()))
    store.write_one(settle(1, event=1, published=[event(root=1, parent=1) for _ in range(4)]))
    for run in range(2, 6):
        store.write_one(settle(run, event=run, root=1, published=[event(root=1, parent=run, handlers=())]))
    commits = Direct(store)

    async def scene():
        stage = Retention(commits, store.reader, KEPT, lambda: LATER)
        removed = []
        change = commits.change

        async def watched(operation):
            answer = await change(operation)
            removed.append([each.seq for each in reversed(await store.reader.events(EventQuery(), 100))])
            return answer

        commits.change = watched
        await stage.sweep()
        return [
            left for left, step in zip(removed, commits.steps, strict=True) if isinstance(step, PruneEvents)
        ]

    assert store.run(scene()) == [[1, 2, 3, 4, 5, 6], [1, 2, 3], []]


def test_a_step_skips_a_tree_with_events_outside_its_list(store):
    store.write_one(publish(event()))
    store.write_one(settle(1, event=1, published=[event(root=1, parent=1, handlers=())]))
    store.write_one(PruneResults(until=1))
    assert store.write_one(PruneEvents(trees=[[1]])) == 0
    assert store.write_one(PruneEvents(trees=[[2], [1]])) == 1  # the list with the parent stays
    assert store.write_one(PruneEvents(trees=[[1]])) == 1


def test_steps_are_bounded_in_bytes(store, monkeypatch):
    monkeypatch.setattr(retention, "STEP_BYTES", 10_000)
    finish(store, *(event(data=b"[" + b"1," * 2_000 + b"1]") for _ in range(10)))
    steps = sweep(store)
    assert events_of(store) == []
    taken = [len(step.trees) for step in steps if isinstance(step, PruneEvents)]
    assert max(taken) == 2
    assert sum(taken) == 10


def test_random_trees_are_kept_or_deleted_as_a_whole(store):
    seed = int(os.environ.get("BUSWAY_TEST_SEED", random.randrange(1 << 32)))
    print("BUSWAY_TEST_SEED", seed)
    chance = random.Random(seed)
    store.write_one(publish(*(event(accepted_at=NOW - chance.randrange(3) * DAY) for _ in range(40))))
    roots = {seq: seq for seq in range(1, 41)}
    waiting, last = list(range(1, 41)), 40
    while waiting and last < 400:
        run = waiting.pop(chance.randrange(len(waiting)))
        if chance.random() < 0.1:
            continue  # it stays unfinished
        published = [event(root=roots[run], parent=run) for _ in range(chance.choice((0, 0, 1, 2)))]
        state = chance.choice((RunState.SUCCEEDED, RunState.DEAD, RunState.CANCELLED))
        store.write_one(settle(run, event=run, root=roots[run], state=state, published=published))
        for _ in published:
            last += 1
            roots[last] = roots[run]
            waiting.append(last)
    runs = store.read("runs", RunQuery(), 10_000)
    unfinished = {roots[run.event] for run in runs if run.state in UNFINISHED}
    sweep(store)
    kept = [seq for seq, root in roots.items() if root in unfinished]
    assert events_of(store) == kept
    assert store.read("runs", RunQuery(), 10_000) == [run for run in runs if run.event in kept]
    assert [run.id for run in runs if store.read("run", run.id)] == [
        run.id for run in runs if run.event in kept
    ]


def test_an_event_that_was_pruned_in_the_same_batch_is_no_duplicate(store):
    store.write(publish(event("a", handlers=())))
    pruned, (stored,), (again,) = store.write(
        PruneEvents(trees=[[1]]), publish(event("a", handlers=())), publish(event("a", handlers=()))
    )
    assert pruned == 1
    assert (stored.seq, stored.duplicate) == (2, False)
    assert (again.seq, again.duplicate) == (2, True)
    assert [e.seq for e in store.read("events", EventQuery(), 10)] == [2]
