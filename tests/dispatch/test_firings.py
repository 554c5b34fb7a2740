"""Firings of schedules on a real store, with a clock that is set by hand."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import msgspec
import pytest
from busway.contract.schedules import ScheduleChange, ScheduleIn
from busway.domain.times import SECOND, to_text
from busway.gateway.dispatch import firings
from busway.gateway.dispatch.schedules import Schedules
from busway.gateway.errors import Conflict, Invalid, NotFound
from busway.gateway.store.port.operations import SaveSchedule
from busway.gateway.store.port.reader import EventQuery

from tests.dispatch.kit import Hands, gateway, until
from tests.store.kit import NOW

MINUTE = 60


@pytest.fixture(autouse=True)
def _short_ticks(monkeypatch):
    """The clock of these tests moves only when they move it."""
    monkeypatch.setattr(firings, "TICK", 0.02)


class Leader:
    """A node that leads: its schedules fire."""

    def __init__(self, made):
        self.made = made
        publishing = firings.Firings(made.commits, made.reader, made.registry, lambda: made.now, self._renew)
        self.schedules = Schedules(made.commits, made.reader, lambda: made.now, publishing)

    async def _renew(self):
        pass

    async def make(self, name, **fields):
        new = {"name": name, "every": "1m", "event": {"type": "one.x"}, **fields}
        event = msgspec.json.encode(new["event"]).decode()
        return await self.schedules.create(msgspec.convert(new, ScheduleIn), event)

    async def fired(self, name):
        """The minutes after NOW at which it fired, oldest first."""
        events = await self.made.reader.events(EventQuery(source=f"/schedules/{name}"), 10_000)
        return [(event.time - NOW) / MINUTE / SECOND for event in events][::-1]

    async def has_fired(self, name, *minutes):
        async with asyncio.timeout(60):
            while await self.fired(name) != list(minutes):
                await asyncio.sleep(0.01)


@asynccontextmanager
async def leading(tmp_path, *, now=NOW):
    async with gateway(tmp_path / "s.db", Hands(room=1_000), now=now, one={}) as made:
        leader = Leader(made)
        leader.schedules.start()
        try:
            yield leader
        finally:
            leader.schedules.stop()


def test_a_schedule_fires_at_its_times_and_starts_runs(tmp_path):
    async def main():
        async with leading(tmp_path) as leader:
            await leader.make("s")
            for minute in (1, 2, 3):
                leader.made.tick(MINUTE)
                await leader.has_fired("s", *range(1, minute + 1))
            await until(lambda: len(leader.made.hands.history) == 3, "its runs")
            assert (await leader.schedules.live("s")).last_fired_at == NOW + 3 * MINUTE * SECOND

    asyncio.run(main())


@pytest.mark.parametrize(
    ("catch_up", "caught_up"), [("one", [5]), ("none", []), ("all", [1, 2, 3, 4, 5])]
)  # fmt: skip
def test_a_clock_that_jumps_forward_misses_firings_and_one_that_goes_back_repeats_none(
    tmp_path, catch_up, caught_up
):
    async def main():
        async with leading(tmp_path) as leader:
            await leader.make("s", catch_up=catch_up)
            await leader.make("sign")
            leader.made.tick(5.6 * MINUTE)
            await leader.has_fired("s", *caught_up)
            await leader.has_fired("sign", 5)
            leader.made.tick(-4 * MINUTE)
            for _ in range(4):
                await asyncio.sleep(firings.TICK / 4)
                leader.made.tick(MINUTE)
            await leader.schedules.run("sign")  # the clock shows what it did before
            await leader.has_fired("sign", 5, 5.6)
            assert await leader.fired("s") == caught_up
            leader.made.tick(0.5 * MINUTE)
            await leader.has_fired("s", *caught_up, 6)

    asyncio.run(main())


def test_a_firing_that_is_a_little_late_is_none_that_was_missed(tmp_path):
    async def main():
        async with leading(tmp_path) as leader:
            await leader.make("s", catch_up="none")
            leader.made.tick(1.5 * MINUTE)
            await leader.has_fired("s", 1)

    asyncio.run(main())


@pytest.mark.long
def test_two_leaders_fire_once(tmp_path):
    """An old leader may go on for a moment after a new one has begun."""

    async def main():
        async with leading(tmp_path) as leader:
            other = Leader(leader.made)
            other.schedules.start()
            for n in range(20):
                await leader.make(f"s{n}", catch_up="all")
            other.schedules.look()
            for minute in range(1, 6):
                leader.made.tick(MINUTE)
                for n in range(20):
                    await leader.has_fired(f"s{n}", *range(1, minute + 1))
            other.schedules.stop()
            await leader.made.commits.drained()
            assert all([await leader.fired(f"s{n}") == [1, 2, 3, 4, 5] for n in range(20)])

    asyncio.run(main())


def test_what_was_missed_while_no_gateway_ran_fires_at_the_next_start(tmp_path):
    async def main():
        async with leading(tmp_path) as leader:
            await leader.make("all", catch_up="all")
            await leader.make("one")
        async with leading(tmp_path, now=NOW + 150 * MINUTE * SECOND) as leader:
            await leader.has_fired("all", *range(1, 151))
            await leader.has_fired("one", 150)

    asyncio.run(main())


def test_changes_hold_from_their_answer_on(tmp_path):
    async def main():
        async with leading(tmp_path) as leader:
            await leader.make("s")
            await leader.make("sign", catch_up="all")
            await leader.schedules.set_paused("s", paused=True)
            leader.made.tick(MINUTE)
            await leader.has_fired("sign", 1)
            await leader.schedules.set_paused("s", paused=False)
            changed = await leader.schedules.change(
                "s", msgspec.convert({"every": "2m"}, ScheduleChange), None
            )
            assert changed.anchor == leader.made.now
            leader.made.tick(2 * MINUTE)
            await leader.has_fired("s", 3)
            await leader.schedules.delete("s")
            leader.made.tick(2 * MINUTE)
            await leader.has_fired("sign", 1, 2, 3, 4, 5)
            assert await leader.fired("s") == [3]
            with pytest.raises(NotFound):
                await leader.schedules.run("s")

    asyncio.run(main())


def test_a_schedule_whose_event_is_not_valid_any_more_disturbs_no_other(tmp_path):
    async def main():
        async with leading(tmp_path) as leader:
            good = await leader.make("good")
            bad = msgspec.structs.replace(good, name="bad", event='{"type":"no good"}')
            await leader.made.commits.change(SaveSchedule(schedule=bad, most=9))
            leader.schedules.look()
            for minute in (1, 2):
                leader.made.tick(MINUTE)
                await leader.has_fired("good", *range(1, minute + 1))
            assert await leader.fired("bad") == []
            with pytest.raises(Invalid, match="white space"):
                await leader.schedules.run("bad")

    asyncio.run(main())


@pytest.mark.long
def test_there_are_not_too_many_schedules(tmp_path):
    async def main():
        async with leading(tmp_path) as leader:
            first = await leader.make("s")
            more = [
                SaveSchedule(schedule=msgspec.structs.replace(first, name=f"s{n}"), most=1_000)
                for n in range(999)
            ]
            assert set(await asyncio.gather(*map(leader.made.commits.change, more))) == {None}
            with pytest.raises(Conflict, match="there are 1000 schedules, which is the limit"):
                await leader.make("over")
            with pytest.raises(Conflict, match="there is a schedule 's7' already"):
                await leader.make("s7")
            leader.schedules.look()
            leader.made.tick(MINUTE)
            async with asyncio.timeout(60):
                while await leader.made.reader.totals() != (1_000, 0):
                    await asyncio.sleep(0.01)
            events = await leader.made.reader.events(EventQuery(), 1)
            assert events[0].id.endswith(f"@{to_text(NOW + MINUTE * SECOND)[:19]}Z")

    asyncio.run(main())
