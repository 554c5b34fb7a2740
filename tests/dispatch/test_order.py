"""Ordered handlers: one key's runs go in event order, one at a time, whatever happens to them."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict

import pytest
from busway.domain.run import Outcome
from busway.gateway.dispatch import lanes, order, scheduler
from busway.gateway.store.port.operations import Cancel, Retry

from tests.dispatch.kit import Hands, gateway, seeded, until


@pytest.fixture
def path(tmp_path):
    return tmp_path / "busway.db"


@pytest.fixture(autouse=True)
def brisk(monkeypatch):
    """A scheduler that looks at the clock and into the store often, since tests move the clock."""
    monkeypatch.setattr(scheduler, "TICK", 0.005)
    monkeypatch.setattr(scheduler, "PAUSE", 0.05)
    monkeypatch.setattr(scheduler, "SWEEP_EVERY", 0.05)


@pytest.fixture
def tiny(monkeypatch):
    """Room for so little that everything is pushed out, forgotten and read again all the time."""
    monkeypatch.setattr(lanes, "CAPACITY", 12)
    monkeypatch.setattr(lanes, "LOW", 3)
    monkeypatch.setattr(lanes, "READ", 12)
    monkeypatch.setattr(lanes, "SCANNED", 3)
    monkeypatch.setattr(lanes, "READ_ON", 2)
    monkeypatch.setattr(lanes, "_REST", 0.001)
    monkeypatch.setattr(order, "QUEUES", 8)
    monkeypatch.setattr(order, "CAPACITY", 6)
    monkeypatch.setattr(order, "PER_KEY", 3)
    monkeypatch.setattr(scheduler, "CAPACITY", 5)


class Oracle:
    """Knows from the commits what is unfinished, and refuses an attempt that breaks the order."""

    def __init__(self, hands):
        self.hands = hands
        self.unfinished = defaultdict(dict)  # by key: run -> (attempts, due)
        self.key_of = {}
        self.violations = []
        self.parallel = Counter()
        self.clock = lambda: 0
        self.known = 0  # what is due before that must be known to the scheduler

    def heard(self, change):
        for id_ in change.ended:
            self.unfinished[self.key_of.get(id_)].pop(id_, None)
        for run in change.runs:
            if run.key is None:
                self.unfinished[self.key_of.pop(run.id, None)].pop(run.id, None)
            else:
                self.key_of[run.id] = run.key
                self.unfinished[run.key][run.id] = (run.attempt, run.due)

    def offered(self, assignment):
        key = self.key_of.get(assignment.run)
        line = self.unfinished[key]
        if assignment.run not in line:
            return  # it ended and was retried by hand
        others = [a.run for a in self.hands.taken.values() if a.run in line]
        if others:
            self.violations.append(f"{assignment.run} of {key} starts while {others} run")
        before = {
            id_: state
            for id_, state in self.unfinished[key].items()
            if self._goes_before(assignment, id_, state)
        }
        if before:
            self.violations.append(
                f"{assignment.run} of {key}, attempt {assignment.attempt}, starts at {self.clock()} "
                f"before these (attempts, due): {before}"
            )
        self.parallel[len({self.key_of.get(a.run) for a in self.hands.taken.values()} - {None})] += 1

    def _goes_before(self, assignment, id_, state):
        attempts, due = state
        if id_ == assignment.run:
            return False
        if assignment.attempt > 1:
            return attempts > 0 and id_ < assignment.run
        return attempts > 0 or (id_ < assignment.run and (due is None or due <= self.known))


async def storm(path, chance, lives, events, keys, rooms=4):
    """Publish and break things for some lives of the gateway; return who watched and who worked."""
    hands = Hands(rooms)
    oracle = Oracle(hands)
    hands.check = oracle.offered
    now = 1_800_000_000_000_000
    for life in range(lives):
        hands.taken.clear()
        async with gateway(path, hands, check=oracle.heard, now=now, h={"ordered": True}) as gw:
            oracle.clock = lambda gw=gw: gw.now
            for _ in range(events):
                await act(gw, hands, chance, keys)
            if life == lives - 1:
                await all_is_due(gw, oracle)
                await finish(gw, hands, chance)
            now = gw.now
    return oracle, hands


async def act(gw, hands, chance, keys):
    choice = chance.random()
    if choice < 0.35:
        await gw.publish(*[new(gw, chance, keys) for _ in range(chance.choice([1, 1, 3, 20]))])
    elif choice < 0.9:
        settle(gw, hands, chance)
    elif choice < 0.93 and hands.history:
        ids = [chance.choice(hands.history).run for _ in range(2)]
        await gw.commits.change(Cancel(runs=ids, now=gw.now))
    elif choice < 0.96 and hands.history:
        await gw.commits.change(Retry(runs=[chance.choice(hands.history).run], now=gw.now))
    else:
        gw.tick(chance.choice([0.1, 2, 100]))
    await asyncio.sleep(chance.choice([0, 0, 0.001, 0.004]))


def new(gw, chance, keys):
    key = f"k{min(chance.randrange(keys), chance.randrange(keys))}" if chance.random() < 0.9 else None
    due = gw.now + chance.randrange(5_000_000) if chance.random() < 0.1 else None
    return gw.event("h", key, priority=chance.randrange(10), due=due)


def settle(gw, hands, chance):
    if not hands.taken:
        return
    assignment = chance.choice(list(hands.taken.values()))
    choice = chance.random()
    if choice < 0.1:
        gw.mark(assignment)
        hands.marked.add(assignment.token)
    elif choice < 0.2 and assignment.token not in hands.marked:
        gw.give_back(assignment)
    elif choice < 0.3:
        gw.end(assignment, Outcome.LOST)
    elif choice < 0.5:
        gw.end(assignment, Outcome.FAILED, retry_after=chance.choice([0, 0.1, 1, 90]))
    elif choice < 0.55:
        gw.end(assignment, Outcome.FAILED, fatal=True)
    else:
        gw.end(assignment)


async def all_is_due(gw, oracle):
    """Let all due times pass and the scheduler look into the store after that."""
    gw.tick(100)
    now, sweeps, due = gw.now, 0, gw.reader.due

    async def counted(*arguments, **options):
        nonlocal sweeps
        found = await due(*arguments, **options)
        sweeps += 1
        return found

    gw.reader.due = counted
    async with asyncio.timeout(60):
        while sweeps < 3:
            await asyncio.sleep(0.01)
    oracle.known = now


async def finish(gw, hands, chance):
    """Let everything succeed and wait until nothing waits in the store."""
    async with asyncio.timeout(60):
        while True:
            for assignment in list(hands.taken.values()):
                gw.end(assignment)
            gw.tick(chance.choice([0.2, 30]))
            await asyncio.sleep(0.002)
            if not hands.taken:
                counts = (await gw.reader.counts())[gw.registry.named("h").handler.id]
                if not {"available", "retryable", "running"} & counts.keys():
                    return


@pytest.mark.long
@pytest.mark.parametrize("keys", [2, 6, 30])
def test_no_fault_breaks_the_order_of_a_key(path, tiny, keys):
    chance = seeded()
    oracle, hands = asyncio.run(storm(path, chance, lives=3, events=250, keys=keys))
    assert oracle.violations == []
    assert max(oracle.parallel) >= 1, "other keys did not go on"
    assert len(hands.history) > 300


def test_no_fault_breaks_the_order_with_room_for_all(path):
    chance = seeded()
    oracle, _ = asyncio.run(storm(path, chance, lives=2, events=120, keys=10))
    assert oracle.violations == []


def drive(path, scenario, room=4, timer=None, **handlers):
    async def main():
        hands = Hands(room)
        async with gateway(path, hands, timer=timer, **handlers) as gw:
            await scenario(gw, hands)

    asyncio.run(main())


def runs(hands):
    return [a.run for a in hands.taken.values()]


def of(hands, run):
    return next(a for a in hands.taken.values() if a.run == run)


def test_a_run_that_waits_for_its_next_attempt_holds_its_key_and_no_other(path):
    async def scenario(gw, hands):
        await gw.publish(*[gw.event("h", key) for key in "aab"])
        await until(lambda: runs(hands) == [1, 3])
        gw.end(of(hands, 1), Outcome.FAILED, retry_after=50)
        gw.end(of(hands, 3))
        await gw.publish(gw.event("h", "b"), gw.event("h"))
        await until(lambda: set(runs(hands)) == {4, 5})
        assert 2 not in runs(hands)
        gw.tick(51)
        await until(lambda: 1 in runs(hands))
        gw.end(of(hands, 1), Outcome.FAILED, fatal=True)
        await until(lambda: 2 in runs(hands))

    drive(path, scenario, h={"ordered": True})


def test_a_key_is_held_over_a_restart(path):
    async def before(gw, hands):
        await gw.publish(*[gw.event("h", "a", priority=p) for p in (0, 9)])
        await until(lambda: runs(hands) == [1])
        gw.end(of(hands, 1), Outcome.FAILED, retry_after=500)
        await until(lambda: not gw.commits.backlog)

    async def after(gw, hands):
        await gw.publish(gw.event("h", "b"), gw.event("h", "a"))
        await until(lambda: runs(hands) == [3])
        gw.tick(470)
        gw.dispatcher.scheduler.look_again()
        gw.tick(40)
        await until(lambda: runs(hands) == [3, 1])
        gw.end(of(hands, 1))
        await until(lambda: runs(hands) == [3, 2])

    drive(path, before, h={"ordered": True})
    drive(path, after)


def test_a_key_is_held_by_a_run_that_is_due_before_the_scheduler_has_seen_it(path, monkeypatch):
    monkeypatch.setattr(scheduler, "TICK", 1000)

    async def scenario(gw, hands):
        await gw.publish(*[gw.event("h", "a") for _ in range(2)])
        await until(lambda: runs(hands) == [1])
        gw.end(of(hands, 1), Outcome.FAILED, retry_after=50)
        await until(lambda: not gw.commits.backlog and gw.dispatcher.scheduler._later)
        gw.tick(51)
        gw.dispatcher._rescan()
        gw.dispatcher.wake()
        lane = gw.dispatcher._lanes[1]
        await until(lambda: not lane.reading and "a" in lane.order.queues and lane.order.queues["a"].loaded)
        gw.dispatcher._pump()
        assert runs(hands) == []
        gw.dispatcher.scheduler._wake.set()
        await until(lambda: runs(hands) == [1])
        gw.end(of(hands, 1))
        await until(lambda: runs(hands) == [2])

    drive(path, scenario, h={"ordered": True})


def test_cancelling_a_run_that_waits_frees_its_key(path):
    async def scenario(gw, hands):
        await gw.publish(*[gw.event("h", "a") for _ in range(2)])
        await until(lambda: runs(hands) == [1])
        gw.end(of(hands, 1), Outcome.FAILED, retry_after=5000)
        await until(lambda: not gw.commits.backlog)
        await gw.commits.change(Cancel(runs=[1], now=gw.now))
        await until(lambda: runs(hands) == [2])

    drive(path, scenario, h={"ordered": True})


def test_a_retry_by_hand_neither_waits_for_its_key_nor_holds_it(path):
    async def scenario(gw, hands):
        await gw.publish(*[gw.event("h", "a") for _ in range(3)])
        await until(lambda: runs(hands) == [1])
        gw.end(of(hands, 1), Outcome.FAILED, retry_after=5000)
        await until(lambda: not gw.commits.backlog)
        await gw.commits.change(Retry(runs=[1], now=gw.now))
        await until(lambda: runs(hands) == [1, 2] or runs(hands) == [2, 1])
        gw.end(of(hands, 1), Outcome.FAILED, retry_after=5000)
        gw.end(of(hands, 2), Outcome.FAILED, fatal=True)
        await until(lambda: runs(hands) == [3])
        await gw.commits.change(Retry(runs=[2], now=gw.now))
        await until(lambda: runs(hands) == [3, 2])

    drive(path, scenario, h={"ordered": True})


def test_a_run_that_was_never_started_and_is_retried_by_hand_stands_outside(path):
    async def scenario(gw, hands):
        await gw.publish(*[gw.event("h", "a") for _ in range(3)])
        await until(lambda: runs(hands) == [1])
        await gw.commits.change(Cancel(runs=[2], now=gw.now))
        await gw.commits.change(Retry(runs=[2], now=gw.now))
        await until(lambda: runs(hands) == [1, 2])

    drive(path, scenario, h={"ordered": True})


def test_priority_sorts_the_heads_of_keys_and_never_one_key(path):
    async def scenario(gw, hands):
        await until(lambda: gw.dispatcher._lane(1).order.complete)
        hands.room = 0
        events = [("a", 0), ("a", 9), ("b", 4), (None, 5), ("c", 9), ("c", 0)]
        await gw.publish(*[gw.event("h", key, priority=p) for key, p in events])
        hands.room = 1
        went = []
        while len(went) < 6:
            gw.dispatcher.wake()
            await until(lambda: hands.taken)
            went += runs(hands)
            gw.end(of(hands, went[-1]))
        assert went in ([5, 4, 3, 1, 2, 6], [5, 4, 3, 1, 6, 2]), went

    drive(path, scenario, h={"ordered": True})


def test_a_run_that_is_not_due_yet_holds_nothing_and_goes_first_when_it_is(path):
    async def scenario(gw, hands):
        await gw.publish(gw.event("h", "a", due=gw.now + 20_000_000), *[gw.event("h", "a") for _ in range(2)])
        await until(lambda: runs(hands) == [2])
        gw.tick(21)
        await until(lambda: len(gw.dispatcher._lanes[1].order.queues["a"].runs) == 2)
        gw.end(of(hands, 2))
        await until(lambda: runs(hands) == [1])

    drive(path, scenario, h={"ordered": True})


def test_a_key_waits_for_an_attempt_that_was_given_up_but_may_still_run(path):
    async def scenario(gw, hands):
        await gw.publish(*[gw.event("h", "a") for _ in range(2)])
        await until(lambda: runs(hands) == [1])
        hands.ghosts.add(1)
        gw.end(of(hands, 1), Outcome.FAILED, fatal=True)
        await gw.publish(gw.event("h", "b"))
        await until(lambda: runs(hands) == [3])
        gw.vanish(1)
        await until(lambda: runs(hands) == [3, 2])

    drive(path, scenario, h={"ordered": True})


def test_switching_order_on_and_off_holds_for_what_has_not_started(path):
    async def scenario(gw, hands):
        await gw.publish(*[gw.event("h", "a") for _ in range(6)])
        await until(lambda: runs(hands) == [1, 2])
        await gw.handler("h", ordered=True)
        await asyncio.sleep(0.01)
        hands.room = 9
        gw.end(of(hands, 2), Outcome.FAILED, retry_after=30)
        await asyncio.sleep(0.02)
        assert runs(hands) == [1]
        gw.end(of(hands, 1))
        await asyncio.sleep(0.02)
        assert runs(hands) == [], "2 holds the key"
        gw.tick(31)
        await until(lambda: runs(hands) == [2])
        gw.end(of(hands, 2))
        await until(lambda: runs(hands) == [3])
        await gw.handler("h", ordered=False)
        await until(lambda: runs(hands) == [3, 4, 5, 6])

    drive(path, scenario, room=2, h={})


def test_a_flood_of_one_blocked_key_keeps_no_other_back(path):
    async def scenario(gw, hands):
        await gw.publish(*[gw.event("h", "flood") for _ in range(9_000)])
        await until(lambda: runs(hands) == [1])
        gw.end(of(hands, 1), Outcome.FAILED, retry_after=40)
        await gw.publish(*[gw.event("h", f"k{n}") for n in range(3)])
        await until(lambda: len(hands.taken) == 3)
        lane = gw.dispatcher._lanes[1]
        assert lane.order.held < order.CAPACITY + order.QUEUES
        for assignment in list(hands.taken.values()):
            gw.end(assignment)
        gw.tick(41)
        went = []
        while len(went) < 500:
            await until(lambda: hands.taken)
            went += runs(hands)
            gw.end(of(hands, went[-1]))
        assert went == list(range(1, 501))

    drive(path, scenario, h={"ordered": True})


def test_more_keys_than_there_is_room_for_all_have_their_turn(path, tiny):
    async def scenario(gw, hands):
        for _ in range(5):
            await gw.publish(*[gw.event("h", f"k{n}") for n in range(60)])
        went = Counter()
        while sum(went.values()) < 300:
            await until(lambda: hands.taken)
            for assignment in list(hands.taken.values()):
                went[assignment.run % 60] += 1
                gw.end(assignment)
            assert len(gw.dispatcher._lanes[1].order.queues) <= order.QUEUES + hands.room
        assert set(went.values()) == {5}

    drive(path, scenario, h={"ordered": True})
