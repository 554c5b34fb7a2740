"""Concurrency, rate and fairness: who may start, when, and that nobody keeps another back."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from busway.domain.run import Outcome
from busway.gateway.dispatch.lanes import LATE, Pace, interval
from busway.gateway.store.port.operations import Cancel

from tests.dispatch.kit import Hands, gateway, seeded, until


@pytest.fixture
def path(tmp_path):
    return tmp_path / "busway.db"


def drive(path, scenario, room=4, timer=None, **handlers):
    async def main():
        hands = Hands(room)
        async with gateway(path, hands, timer=timer, **handlers) as gw:
            await scenario(gw, hands)

    asyncio.run(main())


async def settled(gw):
    """Wait until all that may start has been offered."""
    for _ in range(3):
        gw.dispatcher.wake()
        await asyncio.sleep(0)
    await until(lambda: not (gw.commits.backlog or gw.dispatcher._pumping or gw.dispatcher._reads))


@pytest.mark.long
def test_no_more_runs_than_the_handlers_concurrency_are_under_way(path):
    chance = seeded()

    async def scenario(gw, hands):
        most = 0

        def check(_assignment):
            nonlocal most
            most = max(most, 1 + len(hands.taken))

        hands.check = check
        await gw.publish(*[gw.event("h") for _ in range(300)])
        done = 0
        while done < 300:
            await until(lambda: hands.taken)
            assignment = chance.choice(list(hands.taken.values()))
            outcome = chance.choice([Outcome.SUCCEEDED, Outcome.SUCCEEDED, Outcome.FAILED, Outcome.LOST])
            if chance.random() < 0.1:
                gw.give_back(assignment)
            elif outcome is Outcome.SUCCEEDED:
                gw.end(assignment)
                done += 1
            elif outcome is Outcome.FAILED:
                gw.end(assignment, outcome, retry_after=0)
            elif Counter(a.run for a in hands.history)[assignment.run] < 9:
                gw.end(assignment, outcome)
            await asyncio.sleep(0)
        assert most == 3
        await settled(gw)
        assert gw.in_flight.running(1) == 0

    drive(path, scenario, room=50, h={"concurrency": 3})


def test_an_attempt_counts_until_its_outcome_is_stored_and_it_certainly_ended(path):
    async def scenario(gw, hands):
        await gw.publish(*[gw.event("h") for _ in range(3)])
        await until(lambda: len(hands.taken) == 1)
        first = next(iter(hands.taken.values()))
        hands.ghosts.add(first.run)
        await gw.commits.change(Cancel(runs=[first.run], now=gw.now))
        assert hands.cancelled == [first.run]
        await settled(gw)
        assert not hands.taken
        gw.vanish(first.run)
        await until(lambda: len(hands.taken) == 1)
        second = next(iter(hands.taken.values()))
        gw.end(second)
        gw.dispatcher._pump()
        assert not hands.taken, "its outcome is not stored yet"
        await until(lambda: len(hands.taken) == 1)

    drive(path, scenario, h={"concurrency": 1})


def test_changing_the_concurrency_holds_at_once_for_what_has_not_started(path):
    async def scenario(gw, hands):
        await gw.publish(*[gw.event("h") for _ in range(30)])
        await until(lambda: len(hands.taken) == 2)
        await gw.handler("h", concurrency=5)
        await until(lambda: len(hands.taken) == 5)
        await gw.handler("h", concurrency=1)
        for left in (4, 3, 2, 1):
            gw.end(next(iter(hands.taken.values())))
            await settled(gw)
            assert len(hands.taken) == left
        await gw.handler("h")
        await until(lambda: len(hands.taken) == 20)

    drive(path, scenario, room=20, h={"concurrency": 2})


class Timer:
    """A monotonic clock that the test moves."""

    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def test_starts_are_an_interval_apart_and_none_is_dropped_or_saved_up(path):
    timer = Timer()

    async def scenario(gw, hands):
        await gw.publish(*[gw.event("h") for _ in range(10)])
        await until(lambda: len(hands.history) == 1)
        for second in range(1, 5):
            timer.now += 0.5
            await settled(gw)
            assert len(hands.history) == second
            timer.now += 0.5
            await settled(gw)
            assert len(hands.history) == second + 1
        timer.now += 1000
        await settled(gw)
        assert len(hands.history) == 6, "an idle time saved starts up"
        await gw.handler("h", rate="2/s")
        timer.now += 0.5
        await settled(gw)
        assert len(hands.history) == 7
        await gw.handler("h", rate=None)
        await until(lambda: len(hands.history) == 10)

    drive(path, scenario, room=50, timer=timer, h={"rate": "60/m"})


def test_the_lane_wakes_by_itself_when_the_next_start_is_allowed(path):
    async def scenario(gw, hands):
        await gw.publish(*[gw.event("h") for _ in range(6)])
        await until(lambda: len(hands.history) == 6)

    drive(path, scenario, room=50, h={"rate": "50/s"})


def test_a_rate_is_reached_though_timers_are_late_and_never_exceeded():
    chance = seeded()
    pace, now, starts = Pace(), 0.0, []
    while len(starts) < 2_000:
        if pace.wait("100/s", now) <= 0:
            pace.start("100/s", now)
            starts.append(now)
        now += max(0.0, pace.wait("100/s", now)) + chance.random() * 0.008
    assert 99 < len(starts) / (starts[-1] - starts[0]) <= 100.1
    for window in (0.01, 0.1, 1.0):
        last = 0
        for first, begin in enumerate(starts):
            while last < len(starts) and starts[last] < begin + window:
                last += 1
            assert last - first <= (window + LATE) / interval("100/s") + 1.001


def test_thousands_of_waiting_runs_of_one_handler_do_not_delay_another(path):
    async def scenario(gw, hands):
        await gw.publish(*[gw.event("many") for _ in range(9_000)])
        await gw.publish(*[gw.event("few") for _ in range(20)])
        turns = 0
        while Counter(a.handler for a in hands.history)["few"] < 20:
            await until(lambda: hands.taken)
            gw.end(next(iter(hands.taken.values())))
            await settled(gw)
            turns += 1
        assert turns <= 60, "they do not take turns"

    drive(path, scenario, room=2, many={}, few={})


def test_handlers_take_turns_however_many_there_are_and_however_often_dispatch_looks(path):
    names = [f"h{n}" for n in range(7)]

    async def scenario(gw, hands):
        for name in names:
            await gw.publish(*[gw.event(name) for _ in range(50)])
        await settled(gw)
        for looks in range(8):
            before = len(hands.history)
            for _ in range(28):
                gw.end(next(iter(hands.taken.values())))
                await until(lambda: hands.taken)
                await settled(gw)
                for _ in range(looks):
                    gw.dispatcher._pump()
            went = Counter(a.handler for a in hands.history[before:])
            assert max(went.values()) - min(went[name] for name in names) <= 1, (looks, went)

    drive(path, scenario, room=1, **{name: {} for name in names})


def test_a_place_that_is_full_keeps_no_other_place_back(path):
    class Picky(Hands):
        """Has no room for attempts that must be alone, nor in the thread pool."""

        def offer(self, assignment):
            return not (assignment.alone or assignment.pool == "thread") and super().offer(assignment)

    async def main():
        hands = Picky(4)
        async with gateway(path, hands, lost={}, threads={"pool": "thread"}, free={}) as gw:
            await gw.publish(gw.event("lost"))
            await until(lambda: hands.taken)
            gw.end(next(iter(hands.taken.values())), Outcome.LOST, alone=True)
            await gw.publish(*[gw.event("threads") for _ in range(3_000)])
            await gw.publish(*[gw.event("lost") for _ in range(50)])
            for _ in range(30):
                await gw.publish(gw.event("free"))
                await until(lambda: hands.taken)
                (assignment,) = hands.taken.values()
                assert assignment.handler == "free"
                gw.end(assignment)

    asyncio.run(main())


@pytest.mark.long
def test_priority_sorts_the_runs_of_a_handler(path):
    chance = seeded()

    async def scenario(gw, hands):
        await until(lambda: not gw.dispatcher._lane(1).more)
        hands.room = 0
        priorities = [chance.randrange(10) for _ in range(2_500)]
        await gw.publish(*[gw.event("h", priority=p) for p in priorities])
        hands.room = 1
        while len(hands.history) < 2_500:
            gw.dispatcher.wake()
            await until(lambda: hands.taken)
            gw.end(next(iter(hands.taken.values())))
        ranks = sorted(range(2_500), key=lambda n: (-priorities[n], n))
        assert [a.run for a in hands.history] == [n + 1 for n in ranks]

    drive(path, scenario, h={})


def test_an_expensive_read_is_not_made_for_a_lane_that_is_blocked(path):
    async def scenario(gw, hands):
        await gw.publish(*[gw.event("h") for _ in range(5_000)])
        asked = hands.asked
        for _ in range(50):
            await settled(gw)
        assert hands.asked == asked, "a lane at its limit was offered"
        assert not gw.dispatcher._reads

    drive(path, scenario, h={"rate": "1/h"})


def test_a_run_that_could_not_be_handed_out_is_tried_again_and_holds_up_no_other_handler(path):
    async def scenario(gw, hands):
        failing = []

        def check(assignment):
            if assignment.handler == "broken" and len(failing) < 2:
                failing.append(assignment)
                raise OSError(24, "Too many open files")

        hands.check = check
        await gw.publish(gw.event("broken"), gw.event("other"))
        await until(lambda: {a.handler for a in hands.taken.values()} == {"broken", "other"})
        assert len(failing) == 2

    drive(path, scenario, broken={}, other={})


def test_dispatch_goes_on_after_one_of_its_loops_failed(path):
    async def scenario(gw, hands):
        reads, due = [], gw.reader.due

        def fail(*arguments, **options):
            reads.append(arguments)
            if len(reads) == 1:
                raise MemoryError
            return due(*arguments, **options)

        expiry, upcoming = [], gw.reader.next_expiry

        def fail_expiry():
            expiry.append(1)
            if len(expiry) == 1:
                raise MemoryError
            return upcoming()

        gw.reader.due, gw.reader.next_expiry = fail, fail_expiry
        gw.dispatcher.scheduler.look_again()
        gw.dispatcher.scheduler.expire_at(gw.now)
        await until(lambda: len(reads) > 1 and expiry)
        gw.dispatcher.scheduler.expire_at(gw.now)
        await until(lambda: len(expiry) > 1)

    drive(path, scenario, h={})
