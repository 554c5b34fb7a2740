"""Runs that are due later: years ahead, over a restart, more than fit in memory, and a clock that jumps."""

from __future__ import annotations

import asyncio

import pytest
from busway.domain.times import SECOND, from_text
from busway.gateway.dispatch import scheduler

from tests.dispatch.kit import Hands, gateway, until
from tests.store.kit import NOW

pytestmark = pytest.mark.long
YEAR = 365 * 86_400


def test_a_run_starts_at_its_time_years_ahead_and_after_a_restart(tmp_path):
    hands = Hands()
    late = NOW + 70 * YEAR * SECOND

    async def main():
        async with gateway(tmp_path / "due.db", hands, one={}) as first:
            await first.publish(first.event("one", due=late), first.event("one", due=late + SECOND))
            await first.publish(first.event("one", due=from_text("9999-12-31T23:59:59Z")))
        async with gateway(tmp_path / "due.db", hands, now=late - 1) as second:
            await until(lambda: second.dispatcher.scheduler._later, "a sweep")
            await asyncio.sleep(2 * scheduler.TICK)
            assert hands.history == []
            second.tick(0.000_001)
            await until(lambda: len(hands.history) == 1, "the first one")
            second.tick(1)
            await until(lambda: len(hands.history) == 2, "the second one")
            assert [assignment.run for assignment in hands.history] == [1, 2]

    asyncio.run(main())


def test_a_clock_that_jumps_forward_is_noticed_without_a_sweep(tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, "SWEEP_EVERY", 1e6)
    hands = Hands()

    async def main():
        async with gateway(tmp_path / "due.db", hands, one={}) as made:
            await made.publish(made.event("one", due=NOW + YEAR * SECOND))
            await asyncio.sleep(2 * scheduler.TICK + scheduler.PAUSE)
            assert hands.history == []
            made.tick(YEAR)
            await until(lambda: hands.history, "its run")

    asyncio.run(main())


def test_runs_that_are_due_later_wait_in_the_store_and_all_start(tmp_path, monkeypatch):
    """However many wait, few are in memory."""
    monkeypatch.setattr(scheduler, "CAPACITY", 100)
    hands = Hands(room=3_000)

    async def main():
        async with gateway(tmp_path / "due.db", hands, one={}) as made:
            due = NOW + 100 * SECOND
            for _ in range(3):
                await made.publish(*[made.event("one", due=due) for _ in range(1_000)])
            assert not made.dispatcher.scheduler._later
            assert not made.dispatcher._holding._runs
            made.tick(60)
            await until(lambda: made.dispatcher.scheduler._later, "a sweep")
            assert len(made.dispatcher.scheduler._later) <= 100
            assert hands.history == []
            made.tick(40)
            await until(lambda: len(hands.history) == 3_000, "all of them")
            assert len({assignment.run for assignment in hands.history}) == 3_000

    asyncio.run(main())
