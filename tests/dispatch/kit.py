"""Dispatch and recorder on a real store. The test itself is the workers: it says how attempts end."""

from __future__ import annotations

import asyncio
import os
import random
import time
from contextlib import asynccontextmanager

from busway.domain.handler import Handler
from busway.domain.run import MAX_LOSSES, Error, Outcome
from busway.domain.times import SECOND
from busway.gateway.attempts.inflight import InFlight
from busway.gateway.attempts.recorder import Recorder
from busway.gateway.dispatch.dispatcher import Dispatcher
from busway.gateway.dispatch.placement import Placement
from busway.gateway.dispatch.registry import Registry
from busway.gateway.executors.port import Ended, Gone, HandlerFile, Returned, Room, Started, Target
from busway.gateway.store.group.commits import GroupCommits
from busway.gateway.store.port.operations import Lead, Publish, SaveHandler
from busway.gateway.store.sqlite import database as sqlite
from busway.gateway.store.sqlite.reader import SQLiteReader

from tests.store.kit import NOW, event

CATALOG = [HandlerFile("a.py", "1", [Target("a:b", "function", ""), Target("a:c", "coroutine", "")])]


def seeded(number=None):
    value = int(os.environ.get("BUSWAY_TEST_SEED", random.randrange(1 << 32) if number is None else number))
    print(f"BUSWAY_TEST_SEED={value}")
    return random.Random(value)


class Hands:
    """The workers' port, moved by hand: `room` attempts fit in."""

    def __init__(self, room=4):
        self.room = room
        self.taken = {}
        self.history = []
        self.cancelled = []
        self.ghosts = set()  # runs whose attempts go on when they are given up
        self.haunting = {}  # the tokens of those that do
        self.marked = set()
        self.check = lambda _assignment: None
        self.asked = 0

    def offer(self, assignment):
        self.asked += 1
        if len(self.taken) >= self.room:
            return False
        self.check(assignment)
        self.taken[assignment.token] = assignment
        self.history.append(assignment)
        return True

    def cancel(self, token):
        run = self.taken.pop(token).run
        self.cancelled.append(run)
        if run in self.ghosts:
            self.haunting[run] = token
        return run in self.ghosts

    def credit(self, token, size):
        pass


class Gateway:
    """One life of a gateway over a database."""

    def __init__(self, commits, reader, hands, timer):
        self.commits, self.reader, self.hands = commits, reader, hands
        self.now = NOW
        self.registry = Registry()
        self.in_flight = InFlight(hands)
        more = {"timer": timer} if timer else {}
        place = Placement("process", lambda: self.now)
        self.recorder = Recorder(
            commits, self.registry, self.in_flight, hands, 1 << 20, lambda: time.time_ns() // 1000
        )
        self.dispatcher = Dispatcher(
            commits, reader, self.registry, self.in_flight, place, lambda: self.now, **more
        )
        self.recorder.listen(self.dispatcher.take)

    async def load(self):
        self.registry.load(await self.reader.handlers(), CATALOG)

    async def handler(self, name, **fields):
        """Make a handler, or change it."""
        known = self.registry.named(name)
        overrides = {"target": "a:b", "events": [f"{name}.**"], "max_attempts": 1000, **fields}
        number = known.handler.id if known else 0
        handler = Handler(id=number, name=name, overrides=overrides)
        return await self.commits.change(SaveHandler(handler=handler, fields=overrides))

    async def publish(self, *events):
        return await self.commits.publish(Publish(events=list(events)))

    def event(self, name, key=None, **fields):
        attributes = {"partitionkey": key} if key else {}
        new = event(type_=f"{name}.x", attributes=attributes, **fields)
        new.handlers = self.registry.match(new)
        return new

    def end(self, assignment, outcome=Outcome.SUCCEEDED, **more):
        del self.hands.taken[assignment.token]
        error = None if outcome is Outcome.SUCCEEDED else Error("E", "as the test wants it")
        ended = Ended(
            token=assignment.token, outcome=outcome, started_at=self.now, finished_at=self.now, worker=1,
            error=error, lingers=assignment.run in self.hands.ghosts, **more,
        )  # fmt: skip
        if ended.lingers:
            self.hands.haunting[assignment.run] = assignment.token
        self.report(ended, Room())

    def give_back(self, assignment):
        del self.hands.taken[assignment.token]
        self.report(Returned(token=assignment.token))

    def vanish(self, run):
        """What was given up of that run has ended at last."""
        self.hands.ghosts.discard(run)
        self.report(Gone(token=self.hands.haunting.pop(run)))

    def mark(self, assignment):
        self.report(Started(token=assignment.token, started_at=self.now, worker=1))

    def report(self, *reports):
        self.dispatcher.take(self.recorder.take(list(reports)))

    def tick(self, seconds):
        self.now += round(seconds * SECOND)


@asynccontextmanager
async def gateway(path, hands, *, check=None, now=NOW, timer=None, **handlers):
    """A gateway that has started; `check` hears of commits before dispatch does."""
    sqlite.migrate(path)
    commits, reader = GroupCommits(sqlite.address(path)), SQLiteReader(path)
    await commits.start()
    made = Gateway(commits, reader, hands, timer)
    made.now = now
    try:
        await commits.change(Lead(now=made.now, max_losses=MAX_LOSSES))
        if check:
            commits.listen(check)
        commits.listen(made.recorder.committed)
        commits.listen(made.dispatcher.committed)
        await made.load()
        for name, fields in handlers.items():
            await made.handler(name, **fields)
        made.dispatcher.start()
        yield made
    finally:
        made.dispatcher.stop()
        await commits.close(timeout=10)
        await asyncio.to_thread(reader.close)


async def until(condition, what="it", seconds=120):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.002)
