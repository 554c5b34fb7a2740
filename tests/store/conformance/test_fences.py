"""Late outcomes and those of other nodes are refused, and runs that a worker has do not expire."""

import pytest
from busway.domain.run import Error, RunState
from busway.gateway.store.port.operations import Cancel, Expire, Retry, Return, Settled

from tests.store.databases import ON_ALL
from tests.store.kit import NOW, append, event, mark, publish, settle

pytestmark = ON_ALL

LATE = Error("Expired", "too late")


def retried(store, now=NOW + 3):
    store.write(publish(event()))
    store.write(Cancel(runs=[1], now=NOW + 1))
    store.write(Retry(runs=[1], now=now))
    return store.read("waiting", 1, 10)[0]


def test_the_outcome_of_a_cancelled_attempt_is_refused_after_a_retry(store):
    run = retried(store)
    assert not store.write_one(settle(1, token=7)).accepted
    assert not store.write_one(mark(1, token=7))
    assert store.write_one(append(1, 0)) == 0
    late = settle(1, token=8, fence=run.fence)
    assert store.write_one(late).accepted
    assert [result.kind for result in store.results()] == ["cancelled", "succeeded"]


@pytest.mark.parametrize("marked", [True, False])
def test_each_retry_sets_a_new_fence(store, marked):
    first = retried(store)
    store.write(Cancel(runs=[1], now=NOW + 4), Retry(runs=[1], now=NOW + 5))
    second = store.read("waiting", 1, 10)[0]
    assert first.fence != second.fence
    assert not store.write_one(settle(1, token=7, fence=first.fence)).accepted
    if marked:
        marking = mark(1, token=9)
        marking.fence = second.fence
        assert store.write_one(marking)
    assert store.write_one(settle(1, token=9, fence=second.fence)).accepted


def test_after_its_first_outcome_a_retried_run_has_no_fence(store):
    run = retried(store)
    store.write(settle(1, token=9, state=RunState.RETRYABLE, fence=run.fence, due=NOW + 30))
    assert store.read("due", NOW + 60, 10)[0].fence == 0
    assert store.write_one(settle(1, attempt=2)).accepted


def test_a_node_can_do_nothing_for_an_attempt_of_another_one(store):
    store.write(publish(event()))
    assert store.write_as(1, mark(1, token=7)) == [True]
    before = store.read("run", 1)
    foreign = (
        append(1, 0, token=7),
        settle(1, token=7),
        settle(1, token=7, state=RunState.RETRYABLE, due=NOW + 30),
        mark(1, token=7),
        Return(run=1, token=7, now=NOW + 8),
    )
    refusals = [0, Settled(False), Settled(False), False, False]
    assert store.write_as(2, *foreign) == refusals
    assert store.write_as(1, append(1, 0, token=6)) == [0], "nor with another token"
    assert (store.read("run", 1), store.results()) == (before, [])
    own = store.write_as(1, append(1, 0, token=7), settle(1, token=7))
    assert own == [1, Settled(True, 2, b'{"succeeded":1}')]
    assert store.write_as(2, *foreign) == refusals
    assert [result.number for result in store.results()] == [1, 2]


def test_runs_that_workers_have_do_not_expire(store):
    store.write(publish(*(event(expires_at=NOW + n) for n in range(3))))
    assert store.write_one(Expire(error=LATE, now=NOW + 9, limit=2, spare=[1, 2])) == [3]
    assert store.write_one(settle(1)).accepted
    assert store.write_one(Expire(error=LATE, now=NOW + 9, limit=2)) == [2]
