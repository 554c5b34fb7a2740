"""Fires schedules when they are due. Only the node that leads does.

A firing is one transaction: the event, its runs, and that the schedule has fired. It names the version and
the newest firing of the schedule that it was made from. So a firing exists once, whatever ends or takes over
between, and nothing fires under an old definition once a change is committed.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from busway.domain.event import NewEvent
from busway.domain.handler import FieldError, Rules
from busway.domain.schedule import Schedule
from busway.domain.times import SECOND
from busway.gateway.errors import Unavailable
from busway.gateway.store.port.commits import Commits, Outdated
from busway.gateway.store.port.operations import Fire
from busway.gateway.store.port.reader import Reader

log = logging.getLogger("busway.dispatch")

TICK = 0.5  # seconds until a jump of the clock is noticed
AGAIN = 1.0  # seconds until something that failed is tried again
AT_ONCE = 50  # schedules that fire at the same time
EVENTS = 100  # firings of one schedule in one transaction


class Firings:
    """Publishes the events of schedules.

    Args:
        commits, reader: the store.
        rules: decide which handlers an event starts.
        clock: microseconds since 1970.
        renew: waits until `rules` has the handlers of the store.

    Attributes:
        fired: events that this node has published for schedules, also when a client asked for it.
        missed: how often this node has left out firings that were missed.
    """

    def __init__(
        self,
        commits: Commits,
        reader: Reader,
        rules: Rules,
        clock: Callable[[], int],
        renew: Callable[[], Awaitable[None]],
    ) -> None:
        self._commits, self._reader, self._rules = commits, reader, rules
        self._clock, self._renew = clock, renew
        self._next: dict[str, int] = {}  # of each schedule that will fire
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.fired = self.missed = 0

    def start(self) -> None:
        """Fire from now on: this node leads. First comes what was missed."""
        self._changed.set()
        self._task = asyncio.get_running_loop().create_task(self._keep_up())

    def stop(self) -> None:
        """Fire no more."""
        if self._task is not None:
            self._task.cancel()

    def look(self) -> None:
        """Read the schedules again, because one has changed."""
        self._changed.set()

    async def run(self, schedule: Schedule) -> bool:
        """Fire a schedule now. Return False if it was changed or deleted meanwhile.

        Raises:
            Unavailable: the event cannot be stored now.
        """
        now = self._clock()
        event = schedule.published(now, now)
        return await self._fire(
            Fire(name=schedule.name, version=schedule.version, fired_at=now, events=[event])
        )

    async def _keep_up(self) -> None:
        while True:
            try:
                await self._follow()
            except Unavailable as problem:
                log.warning("schedules cannot fire now, they retry: %s", problem.detail)
            except Exception:
                log.exception("schedules cannot fire; trying again in %g s", AGAIN)
            self._changed.set()
            await asyncio.sleep(AGAIN)

    async def _follow(self) -> None:
        while True:
            if self._changed.is_set():
                self._changed.clear()
                await self._read()
            now = self._clock()
            due = [name for name, firing in self._next.items() if firing <= now][:AT_ONCE]
            if due:
                await asyncio.gather(*map(self._fire_due, due))
                continue
            soonest = min(self._next.values(), default=None)
            wait = None if soonest is None else min(TICK, (soonest - now) / SECOND)
            try:
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            except TimeoutError:
                pass

    async def _read(self) -> None:
        self._next.clear()
        for found in await self._reader.schedule_timings():
            if found.timing.problem is not None:
                log.error(
                    "the schedule %r cannot fire until it is changed: %s", found.name, found.timing.problem
                )
            self._set_next(found.name, found.timing.next(found.after))

    def _set_next(self, name: str, firing: int | None) -> None:
        if firing is None:
            self._next.pop(name, None)
        else:
            self._next[name] = firing

    async def _fire_due(self, name: str) -> None:
        """Publish the events of a schedule that is due."""
        schedule = await self._reader.schedule(name)
        if schedule is None or schedule.paused:
            self._next.pop(name, None)
            return
        now, after = self._clock(), schedule.after
        due = schedule.due(now)
        if due is None:
            self._set_next(name, schedule.timing.next(after))
            return
        firings = due.firings
        try:
            events = [schedule.published(firing, now) for firing in firings]
        except FieldError as problem:
            log.error("the schedule %r cannot fire until it is changed: its event: %s", name, problem)  # noqa: TRY400 - it says all
            self._next.pop(name, None)
            return
        for start in range(0, max(1, len(events)), EVENTS):
            part = firings[start : start + EVENTS]
            last = due.until if start + EVENTS >= len(events) else part[-1]
            fire = Fire(
                name=name,
                version=schedule.version,
                fired_at=part[-1] if part else None,
                after=after,
                until=last,
                events=events[start : start + EVENTS],
            )
            if not await self._fire(fire):
                self._changed.set()
                self._next.pop(name, None)
                return
            after = last
        if due.missed:
            self.missed += 1
            log.warning("the schedule %r has left out firings that were missed (catch_up)", name)
        self._set_next(name, schedule.timing.next(due.until))

    async def _fire(self, fire: Fire) -> bool:
        """Commit a firing. Return False if the schedule was changed or fired meanwhile."""
        while True:
            await self._match(fire.events)
            fire.rules = self._rules.version
            try:
                stored = await self._commits.change(fire)
            except Outdated:
                await self._renew()
                continue
            self.fired += sum(not one.duplicate for one in stored or ())
            return stored is not None

    async def _match(self, events: list[NewEvent]) -> None:
        edition = None
        while edition is not self._rules.edition:
            edition = self._rules.edition
            for _ in self._rules.match_all(events):
                await asyncio.sleep(0)
