"""Replays: steps that create runs once each, their runs and results, cancelling and finishing."""

from busway.domain.replay import ReplayState
from busway.domain.result import Kind
from busway.domain.run import Error, RunState
from busway.gateway.store.port.operations import (
    CancelReplay,
    CreateReplay,
    FinishReplay,
    PruneEvents,
    PruneResults,
    ReplayEvents,
    Retry,
)
from busway.gateway.store.port.reader import RunQuery
from busway.gateway.store.port.retention import PruneReplays

from tests.store.kit import NOW, event, handler, publish, report, settle

GONE = Error("ReplayCancelled", "replay 1 was cancelled")


def create(**fields):
    known = {
        "handler": 1,
        "types": ["order.*"],
        "after": 0,
        "before": 9,
        "shadow": False,
        "now": NOW,
        "most": 2,
    }
    return CreateReplay(**(known | fields))


def step(*events, after=0, until=8, replay=1):
    return ReplayEvents(replay=replay, events=list(events), after=after, until=until, now=NOW)


def cancel(limit=10):
    return CancelReplay(replay=1, error=GONE, now=NOW, limit=limit)


def finish():
    return FinishReplay(replay=1, now=NOW + 30)


def states(store, **query):
    return [(run.id, run.state) for run in store.read("runs", RunQuery(**query), 100)]


def test_a_step_creates_the_runs_of_its_events_once(store):
    store.write(publish(*[event() for _ in range(4)]))
    assert store.write_one(create(shadow=True)) == 1
    runs = store.write_one(step(2, 3, 77, until=3))  # event 77 is not stored any more
    assert [(run.id, run.event.seq, run.replay, run.key) for run in runs] == [
        (5, 2, -1, None),
        (6, 3, -1, None),
    ]
    assert store.write_one(step(2, 3, until=3)) == []  # sent again, or by an old leader
    found = store.read("replay", 1)
    assert (found.position, found.matched, found.created) == (3, 3, 2)
    assert found.counts == {"available": 2}
    assert [run.replay for run in store.read("runs", RunQuery(), 100)] == [1, 1, None, None, None, None]
    assert states(store, replay=1) == [(6, RunState.AVAILABLE), (5, RunState.AVAILABLE)]
    assert states(store, replay=1, event=2, state=RunState.AVAILABLE) == [(5, RunState.AVAILABLE)]
    assert states(store, replay=2) == []
    assert store.read("counts")[1] == {"available": 6}


def test_runs_of_a_replay_come_behind_all_others(store):
    store.write(publish(event(priority=0)), create(), step(1), publish(event(priority=0), event(priority=9)))
    assert [run.id for run in store.read("waiting", 1, 10)] == [4, 1, 3, 2]
    assert store.read("oldest", NOW + 1)[1] == NOW


def test_they_do_not_complete_the_root_event_again_nor_what_they_publish(store):
    store.write(publish(event()), settle(1), create(), step(1))
    settled = store.write_one(settle(2, published=[event("child", root=1, parent=2)]))
    assert settled.completes is None
    assert store.write_one(settle(3)).completes is None
    assert [(r.run, r.replay, r.completes is None) for r in store.results()] == [
        (1, 0, False),
        (2, 1, True),
        (3, 0, True),
    ]


def test_results_and_attempts_of_a_shadow_say_so(store):
    store.write(publish(event()), create(shadow=True), step(1))
    store.write(settle(2, report=report(published='[{"type":"made"}]')))
    assert [r.replay for r in store.results()] == [-1]
    (attempt,) = store.read("run", 2)[1]
    assert (attempt.outcome, attempt.published) == ("succeeded", '[{"type":"made"}]')


def test_a_cancelled_replay_creates_no_more_and_ends_when_its_runs_have(store):
    store.write(publish(*[event() for _ in range(3)]), create(), step(1, 2, 3, until=3))
    assert not store.write_one(finish())
    assert len(store.write_one(cancel(limit=2))) == 2
    assert store.write_one(step(4, after=3)) == []
    assert not store.write_one(finish())
    assert len(store.write_one(cancel())) == 1
    assert [r.kind for r in store.results()] == [Kind.CANCELLED] * 3
    assert store.write_one(finish())
    assert not store.write_one(finish())
    assert store.write_one(cancel()) is None
    found = store.read("replay", 1)
    assert (found.state, found.finished_at) == (ReplayState.CANCELLED, NOW + 30)
    assert found.counts == {"cancelled": 3}
    store.write(Retry(runs=[4], now=NOW))
    assert store.read("replay", 1).counts == {"cancelled": 3}


def test_a_replay_is_done_at_its_end_when_its_runs_have_ended(store):
    store.write(publish(event()), create(), step(1, until=7))
    store.write(settle(2))
    assert not store.write_one(finish())
    assert [(r.id, n) for r, n in store.read("unfinished_replays", 10)] == [(1, 0)]
    store.write(step(after=7, until=8))
    assert store.write_one(finish())
    assert store.read("replay", 1).state is ReplayState.DONE
    assert store.read("unfinished_replays", 10) == []


def test_a_deleted_handler_gets_no_more_runs_and_only_so_many_replays_are_unfinished(store):
    store.write(publish(event()))
    assert store.write(create(), create(handler=2), create()) == [1, 2, 0]
    store.write(handler("one", 1, deleted=True))
    assert store.write_one(step(1)) == []
    assert store.write_one(create()) is None
    store.write(handler("one", 1))  # made again: its old replay does not go on
    assert store.write_one(step(1)) == []
    assert [r.state for r, _ in store.read("unfinished_replays", 9)] == ["cancelled", "running"]
    assert len(store.write_one(step(1, replay=2))) == 1
    assert [r.id for r in store.read("replays", None, 9, 9)] == [2, 1]
    assert [r.id for r in store.read("replays", "one", 9, 9)] == [1]
    assert [r.id for r in store.read("replays", None, 2, 9)] == [1]
    assert store.read("replay", 3) is None


def past(store, *types, test=None, after=0, before=99, limit=99, max_bytes=1 << 20):
    bounds = {"after": after, "before": before, "limit": limit, "max_bytes": max_bytes}
    found = store.read("past_events", list(types), test, **bounds)
    return found.events, found.position


def test_past_events_are_found_by_type_range_and_filter(store):
    store.write(publish(*[event(type_=f"order.{'ab'[n % 2]}") for n in range(6)], event(type_="else")))
    assert past(store, "order.a") == ([1, 3, 5], 98)
    assert past(store, "order.*", after=2, before=5) == ([3, 4], 4)
    assert past(store, "order.*", limit=2) == ([1, 2], 2)
    assert past(store, "**", max_bytes=300) == ([1, 2], 2)
    assert past(store, "order.b", "else", test=lambda each: each.seq > 4) == ([6, 7], 98)
    assert past(store, "nothing") == ([], 98)


def test_a_result_stands_beside_the_one_on_record(store):
    store.write(publish(event(), event(), event()), settle(1), settle(2, state=RunState.DEAD, event=2))
    store.write(create(shadow=True), step(1, 2, 3), create(), step(1, replay=2))
    store.write(settle(4), settle(5, event=2), settle(6, event=3), settle(7))
    found = store.read("replay_results", 1, 0, 10, 1 << 20)
    shown = [
        (
            r.run.id,
            r.result and r.result.kind,
            r.recorded and r.recorded.id,
            r.recorded_result and r.recorded_result.kind,
        )
        for r in found
    ]
    assert shown == [
        (4, Kind.SUCCEEDED, 1, Kind.SUCCEEDED),
        (5, Kind.SUCCEEDED, 2, Kind.DEAD),
        (6, Kind.SUCCEEDED, None, None),  # its first run has not ended
    ]
    assert [r.run.id for r in store.read("replay_results", 1, 4, 1, 1 << 20)] == [5]
    assert [r.run.id for r in store.read("replay_results", 1, 0, 10, 1)] == [4]
    (live,) = store.read("replay_results", 2, 0, 10, 1 << 20)
    assert (live.run.id, live.recorded.id) == (7, 1)  # what a shadow made is not on record


def test_events_of_a_running_replay_are_kept_until_their_runs_end(store):
    store.write(publish(event(), event()), settle(1), settle(2, event=2), create(), step(1, 2))
    assert store.write_one(PruneEvents(trees=[[1]])) == 0
    store.write(settle(3))
    store.write(step(after=8, until=8))
    assert store.read("replay", 1).counts == {"succeeded": 1, "available": 1}


def test_old_replays_without_runs_are_removed_but_for_the_newest(store):
    store.write(publish(event(), event()), settle(1), settle(2, event=2))
    store.write(create(shadow=True), step(1, until=8), settle(3, event=1), finish())
    store.write(create(), step(2, until=8, replay=2), settle(4, event=2))
    store.write(FinishReplay(replay=2, now=NOW + 90))
    store.write(create(), FinishReplay(replay=3, now=NOW))
    for replay in (4, 5):
        store.write(create(before=1), FinishReplay(replay=replay, now=NOW + 30))

    def prune(before, limit=10):
        found = store.read("old_replays", before)
        removed = store.write_one(PruneReplays(before=before, limit=limit))
        assert found == bool(removed)
        return removed, [replay.id for replay in store.read("replays", None, 99, 99)]

    assert prune(NOW + 30) == (0, [5, 4, 3, 2, 1])  # nothing finished before that; 3 has not finished
    assert prune(NOW + 60) == (1, [5, 3, 2, 1])  # 1 has a run, 5 is the newest
    store.write(PruneResults(until=4))
    store.write(PruneEvents(trees=[[1]]))
    assert prune(NOW + 60) == (1, [5, 3, 2])
    assert store.read("replay", 1) is None
    assert states(store, replay=1) == []
    store.write(PruneEvents(trees=[[2]]))
    assert prune(NOW + 90) == (0, [5, 3, 2])
    assert prune(NOW + 91) == (1, [5, 3])
    assert store.write_one(create()) == 6
