"""The table of attempts in flight: an attempt keeps its place until it is over and certainly not running."""

from __future__ import annotations

import asyncio

import pytest
from busway.domain.handler import Handler, Spec
from busway.domain.run import MAX_RETURNS, Outcome
from busway.gateway.attempts.inflight import InFlight
from busway.gateway.store.port.operations import Cancel, Retry

from tests.dispatch.kit import Hands, gateway, until
from tests.dispatch.test_holding import run

HANDLER, SPEC = Handler(id=1, name="h"), Spec(target="a:b", events=("**",))


def started(table, *runs):
    for one in runs:
        assert table.start(one, HANDLER, SPEC, "function", "process", 1)
    return [table.runs[one.id] for one in runs]


def places(table):
    return table.running(1), dict(table.keys(1))


def table_of(room=9, ghosts=()):
    hands = Hands(room)
    hands.ghosts.update(ghosts)
    return InFlight(hands), hands


def test_what_the_executor_refuses_leaves_no_trace():
    table, _ = table_of(room=0)
    assert not table.start(run(key="k"), HANDLER, SPEC, "function", "process", 1)
    assert (places(table), table.live, table.runs) == ((0, {}), {}, {})


def test_a_place_is_free_when_the_outcome_is_stored():
    table, _ = table_of()
    one, two = run(1, key="k"), run(2)
    first, _ = started(table, one, two)
    assert places(table) == (2, {"k": 1})
    table.ended(first, lingers=False)
    assert places(table) == (2, {"k": 1})
    assert table.stored(1) == one
    assert places(table) == (1, {})


@pytest.mark.parametrize("gone_first", [False, True])
def test_a_place_is_free_when_what_lingers_is_gone_too_in_any_order(gone_first):
    table, _ = table_of()
    one = run(key="k")
    (attempt,) = started(table, one)
    table.ended(attempt, lingers=True)
    steps = [lambda: table.stored(1), lambda: table.gone(attempt.token)]
    first, second = reversed(steps) if gone_first else steps
    assert first() is None
    assert places(table) == (1, {"k": 1})
    assert second() == one
    assert places(table) == (0, {})


@pytest.mark.parametrize("lingers", [False, True])
def test_an_attempt_that_is_over_before_it_ended_is_cancelled(lingers):
    table, hands = table_of(ghosts=[1] if lingers else [])
    one = run()
    (attempt,) = started(table, one)
    assert table.stored(1) == (None if lingers else one)
    assert hands.cancelled == [1]
    assert table.live == {}
    assert table.gone(attempt.token) == (one if lingers else None)
    assert places(table) == (0, {})


def test_what_never_started_gives_its_place_back():
    table, _ = table_of()
    (attempt,) = started(table, run(key="k"))
    table.returned(attempt)
    assert (places(table), table.live, table.runs) == ((0, {}), {}, {})


def test_a_run_whose_workers_die_again_and_again_gets_a_worker_of_its_own():
    table, _ = table_of()
    one = run()
    for number in range(1, MAX_RETURNS + 2):
        (attempt,) = started(table, one)
        one = table.returned(attempt, died=True)
        assert (one.returned, one.alone) == (number, number >= MAX_RETURNS)
        (attempt,) = started(table, one)
        assert table.returned(attempt) is one  # no worker died


def test_runs_that_expire_are_known_until_their_outcome_is_stored():
    table, _ = table_of()
    first, _ = started(table, run(1, expires_at=5), run(2))
    table.ended(first, lingers=False)
    assert table.expiring() == [1]
    table.stored(1)
    assert table.expiring() == []


def drive(path, scenario, **handlers):
    async def main():
        hands = Hands()
        async with gateway(path, hands, **handlers) as gw:
            await scenario(gw, hands)

    asyncio.run(main())


async def settled(gw):
    await until(lambda: not gw.commits.backlog)
    gw.dispatcher._pump()


def test_the_next_attempt_of_a_run_waits_until_the_one_that_was_given_up_is_gone(tmp_path):
    async def scenario(gw, hands):
        await gw.publish(gw.event("h"))
        await until(lambda: hands.taken)
        hands.ghosts.add(1)
        gw.end(next(iter(hands.taken.values())), Outcome.FAILED, retry_after=0)
        await settled(gw)
        await gw.publish(gw.event("h"))
        await until(lambda: [a.run for a in hands.taken.values()] == [2])
        gw.dispatcher._rescan()
        await until(lambda: not gw.dispatcher._reads)
        gw.dispatcher._pump()
        assert [a.run for a in hands.taken.values()] == [2]
        gw.vanish(1)
        await until(lambda: {a.run for a in hands.taken.values()} == {1, 2})
        assert [(a.run, a.attempt) for a in hands.history] == [(1, 1), (2, 1), (1, 2)]

    drive(tmp_path / "busway.db", scenario, h={})


def test_a_run_that_is_cancelled_and_retried_by_hand_waits_for_what_still_runs_of_it(tmp_path):
    async def scenario(gw, hands):
        await gw.publish(gw.event("h"))
        await until(lambda: hands.taken)
        hands.ghosts.add(1)
        await gw.commits.change(Cancel(runs=[1], now=gw.now))
        for _ in range(2):  # the second time while it waits
            await gw.commits.change(Retry(runs=[1], now=gw.now))
            await until(lambda: not gw.dispatcher._reads)
            gw.dispatcher._pump()
            assert not hands.taken
            await gw.commits.change(Cancel(runs=[1], now=gw.now))
        assert not gw.dispatcher._parked
        await gw.commits.change(Retry(runs=[1], now=gw.now))
        await until(lambda: gw.dispatcher._parked)
        gw.vanish(1)
        await until(lambda: hands.taken)

    drive(tmp_path / "busway.db", scenario, h={})
