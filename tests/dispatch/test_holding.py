"""What a read of the store found that is past by the time it arrives is turned away, and nothing else."""

from __future__ import annotations

import asyncio
import tracemalloc

import pytest
from busway.domain.event import to_event
from busway.domain.run import Run
from busway.domain.times import SECOND
from busway.gateway.dispatch import lanes
from busway.gateway.dispatch.holding import OVERHEAD, SHARE, TOTAL, Budget, Holding
from busway.gateway.dispatch.lanes import CAPACITY, Lane

from tests.dispatch.kit import Hands, gateway, until
from tests.store.kit import event


def run(id_=1, data=b"1", handler=1, **fields):
    return Run(id=id_, event=to_event(event(data=data), id_), handler=handler, **fields)


def test_a_run_that_is_held_is_not_taken_again():
    holding = Holding({})
    first = run()
    assert holding.take(first)
    with holding.reading() as began:
        assert not holding.take_read(run(), began)
        assert holding.holds(first)


def test_a_run_that_ended_since_a_read_began_is_turned_away_by_that_read_only():
    holding = Holding({})
    with holding.reading() as early:
        holding.take(run())
        holding.end(1)
        with holding.reading() as late:
            assert not holding.take_read(run(), early)
            assert holding.take_read(run(), late)


def test_overlapping_reads_turn_away_no_run_that_waits_again():
    holding = Holding({})
    outer = holding.reading()
    early = outer.__enter__()
    for _ in range(5):
        with holding.reading() as began:
            again = run()
            assert holding.take_read(again, began), "it waits again, and this read is newer than its end"
            holding.end(1)
            assert not holding.take_read(run(), began)
    assert not holding.take_read(run(), early)
    outer.__exit__(None, None, None)
    assert not holding._ended


def test_ends_are_remembered_no_longer_than_the_oldest_read():
    holding = Holding({})
    first, second = holding.reading(), holding.reading()
    first.__enter__()
    holding.end(1)
    second.__enter__()
    holding.end(2)
    first.__exit__(None, None, None)
    assert list(holding._ended) == [2]
    second.__exit__(None, None, None)
    assert not holding._ended


def test_a_lane_holds_no_more_than_its_share_and_the_best_of_it():
    budget = Budget()
    lane = Lane(1, budget)
    lane.more = False
    out = [left.id for n in range(100) for left in lane.add(run(n + 1, b"x" * (SHARE // 10)))]
    assert len(lane) == 9
    assert lane.peek().id == 1
    assert set(out) == set(range(10, 101))
    assert lane.more
    assert lane.weight == budget.used <= SHARE
    while len(lane):
        lane.pop(lane.peek())
    assert budget.used == 0


def test_one_run_is_always_held_however_big_it_is():
    lane = Lane(1, Budget())
    assert lane.add(run(data=b"x" * (2 * SHARE))) == []
    assert lane.peek().id == 1


def test_all_lanes_together_hold_no_more_than_the_budget_and_each_a_little():
    budget = Budget()
    all_ = [Lane(n, budget) for n in range(30)]
    for lane in all_:
        for n in range(200):
            lane.add(run(n + 1, b"x" * 100_000))
    assert budget.used <= TOTAL + 30 * 300_000
    assert all(len(lane) >= 2 for lane in all_)


def test_small_runs_are_bounded_by_their_number():
    lane = Lane(1, Budget())
    lane.more = False
    for n in range(CAPACITY + 500):
        lane.add(run(n + 1))
    assert len(lane) == CAPACITY
    assert lane.weight <= CAPACITY * (OVERHEAD + 1)


def test_what_was_pushed_out_is_not_overtaken_by_what_came_later():
    lane = Lane(1, Budget())
    lane.more = False
    out = [left.id for n in range(CAPACITY + 10) for left in lane.add(run(n + 1))]
    assert out == list(range(CAPACITY + 1, CAPACITY + 11))
    for _ in range(100):
        lane.pop(lane.peek())
    later, urgent = run(CAPACITY + 11), run(CAPACITY + 12, priority=9)
    assert lane.add(later) == [later], "there is room for it, but not before those that were pushed out"
    assert lane.add(urgent) == []
    assert lane.peek() is urgent
    while not lane.wants:
        lane.pop(lane.peek())
    assert lane.add(later) == [], "now the others are read too, and put before it"


@pytest.fixture
def path(tmp_path):
    return tmp_path / "busway.db"


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.long
def test_big_events_that_wait_take_bounded_memory_and_all_run(path, ordered):
    async def scenario():
        hands = Hands(0)
        async with gateway(path, hands, big={"ordered": ordered}, later={}) as gw:
            tracemalloc.start()
            for n in range(30):
                batch = [gw.event("big", f"k{n}{m}" if m else None, data=b"x" * 400_000) for m in range(5)]
                due = gw.now + 20 * SECOND
                later = [gw.event("later", data=b"x" * 400_000, due=due) for _ in range(2)]
                await gw.publish(*batch, *later)
            gw.dispatcher._rescan()
            await until(lambda: not gw.dispatcher._reads)
            current, _ = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert current < 40_000_000, "a lane's share, what is due later, and one read"
            hands.room = 3
            gw.dispatcher.wake()
            await drain(gw, hands, 150)
            gw.tick(21)
            await drain(gw, hands, 210)

    asyncio.run(scenario())


async def drain(gw, hands, wanted):
    while len({a.run for a in hands.history}) < wanted:
        await until(lambda: hands.taken)
        gw.end(next(iter(hands.taken.values())))


def test_late_runs_of_a_paused_handler_keep_nobody_elses_back(path, monkeypatch):
    monkeypatch.setattr("busway.gateway.dispatch.scheduler.CAPACITY", 50)
    monkeypatch.setattr("busway.gateway.dispatch.scheduler.TICK", 0.01)
    monkeypatch.setattr(lanes, "CAPACITY", 20)

    async def scenario():
        hands = Hands(1000)
        async with gateway(path, hands, paused={"paused": True}, free={}) as gw:
            due = gw.now + 5 * SECOND
            await gw.publish(*[gw.event("paused", due=due) for _ in range(500)])
            await gw.publish(*[gw.event("free", due=due + n) for n in range(200)])
            gw.tick(6)
            await until(lambda: len(hands.taken) == 200)
            await gw.handler("paused", paused=False)
            await until(lambda: len(hands.taken) == 700)
            assert len({a.run for a in hands.history}) == 700

    asyncio.run(scenario())
