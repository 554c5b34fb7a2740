"""How the runs of an event ended: the last result of each, once all have ended."""

from busway.domain.run import RunState
from busway.gateway.store.port.operations import Cancel, Retry
from busway.gateway.store.port.reader import Outcomes

from tests.store.databases import ON_ALL
from tests.store.kit import NOW, append, event, publish, settle

pytestmark = ON_ALL
NO_LIMIT = 1 << 40


def outcomes(store, seq=1, limit=100, max_bytes=NO_LIMIT):
    return store.read("outcomes", seq, limit, max_bytes)


def test_results_are_complete_when_all_runs_have_ended(store):
    store.write_one(publish(event(handlers=(1, 2, 1)), event()))
    assert outcomes(store) == Outcomes(3, [], truncated=False)
    store.write(append(2, 0), settle(2), settle(4, event=2))
    assert outcomes(store).unfinished == 2
    store.write(settle(1, state=RunState.RETRYABLE), settle(3, state=RunState.DEAD))
    assert outcomes(store).unfinished == 1
    store.write_one(Cancel(runs=[1], now=NOW))
    found = outcomes(store)
    assert (found.unfinished, found.truncated) == (0, False)
    assert [(r.run, r.kind, r.event.seq) for r in found.results] == [
        (2, "succeeded", 1), (3, "dead", 1), (1, "cancelled", 1)
    ]  # fmt: skip


def test_a_run_that_was_retried_has_its_newest_result(store):
    store.write_one(publish(event()))
    store.write_one(settle(1, state=RunState.DEAD))
    store.write_one(Retry(runs=[1], now=NOW))
    assert outcomes(store).unfinished == 1
    store.write_one(settle(1, 2, fence=store.read("waiting", 1, 1)[0].fence))
    assert [(r.kind, r.attempt) for r in outcomes(store).results] == [("succeeded", 2)]


def test_results_are_bounded_in_number_and_bytes(store):
    store.write_one(publish(event(handlers=(1,) * 5)))
    store.write(*(settle(run) for run in range(1, 6)))
    assert outcomes(store, limit=5) == outcomes(store)
    for cut in (outcomes(store, limit=2), outcomes(store, max_bytes=250)):
        assert ([r.run for r in cut.results], cut.truncated) == ([1, 2], True)
    assert [r.run for r in outcomes(store, max_bytes=1).results] == [1]


def test_an_event_without_runs_or_none_at_all_has_ended(store):
    store.write_one(publish(event(handlers=())))
    for seq in (1, 99):
        assert outcomes(store, seq) == Outcomes(0, [], truncated=False)
