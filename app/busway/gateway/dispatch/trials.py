"""Try a handler out: one attempt through a real worker, of which nothing is stored."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import Any

import msgspec

from busway.domain.event import Event, NewEvent, document, to_event
from busway.domain.event_fields import accept
from busway.domain.handler import FieldError
from busway.domain.run import Error, Outcome
from busway.gateway.dispatch.changes import Changes
from busway.gateway.dispatch.placement import Placement
from busway.gateway.dispatch.registry import Entry, Registry
from busway.gateway.errors import Conflict, Unavailable
from busway.gateway.executors.base import (
    Assignment,
    Ended,
    Partial,
    Published,
    Returned,
    WorkerReport,
    Workers,
)

AT_ONCE = 2  # each has a worker of its own, of which there are few
WAITING = 16
MOST = 1000  # partials, and published events, that an answer holds
MOST_BYTES = 1024 * 1024  # of data in each of the two
_PATIENCE = 10.0  # seconds until the workers must take it
_NAP = 0.02  # seconds


class Trial:
    """One attempt that is tried out, and what it has told so far."""

    def __init__(self, entry: Entry, pool: str) -> None:
        self.entry, self.pool = entry, pool
        self.token = secrets.randbits(62) << 1 | 1
        self.partials: list[Partial] = []
        self.size = self.left_out = 0
        self.ended: asyncio.Future[Ended | None] = asyncio.get_running_loop().create_future()

    def add(self, value: Partial) -> None:
        """Keep a partial if there is room for it."""
        if len(self.partials) >= MOST or self.size + len(value.data) > MOST_BYTES:
            self.left_out += 1
            return
        self.size += len(value.data)
        self.partials.append(value)


class TrialResult(msgspec.Struct, frozen=True):
    """How a trial ended; `published` are the events that a run would have stored."""

    trial: Trial
    ended: Ended
    published: list[dict[str, Any]]
    published_left_out: int


class Trials:
    """Tries handlers out, a few at once.

    Args:
        workers: where attempts go.
        changes, registry, placement: the handlers in force.
        max_event_bytes: the most bytes of data that a published event may have.
        clock: microseconds since 1970.
    """

    def __init__(
        self,
        workers: Workers,
        changes: Changes,
        registry: Registry,
        placement: Placement,
        max_event_bytes: int,
        clock: Callable[[], int],
    ) -> None:
        self._workers, self._changes, self._registry = workers, changes, registry
        self._placement, self._max_event_bytes, self._clock = placement, max_event_bytes, clock
        self._under_way: dict[int, Trial] = {}
        self._free = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    def take(self, reports: list[WorkerReport]) -> None:
        """Pick out what is reported of trials; costs next to nothing while there is none."""
        if not self._under_way:
            return
        for report in reports:
            trial = self._under_way.get(report.token)
            if trial is None or trial.ended.done():
                continue
            if isinstance(report, Partial):
                trial.add(report)
                self._workers.credit(report.token, len(report.data))
            elif isinstance(report, Ended):
                trial.ended.set_result(report)
            elif isinstance(report, Returned):
                trial.ended.set_result(None)

    async def run(self, name: str, new: NewEvent) -> TrialResult:
        """Run a handler once, also a paused one; a cancelled caller ends the attempt.

        Raises:
            NotFound: there is no such handler.
            Conflict: its target cannot be run.
            Unavailable: too many trials wait already, or no worker takes it.
        """
        self._runnable(name)
        if self._waiting >= WAITING:
            raise Unavailable(f"{AT_ONCE} tests run and {WAITING} wait already: try again in a moment")
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        try:
            return await self._run(name, to_event(new, 0))
        finally:
            self._free.release()

    def _runnable(self, name: str) -> Entry:
        entry = self._changes.live(name)
        problem = self._registry.missing(entry.spec.target)
        if problem is not None:
            raise Conflict(f"the handler {name!r} cannot be run: {problem}")
        return entry

    async def _run(self, name: str, event: Event) -> TrialResult:
        deadline = asyncio.get_running_loop().time() + _PATIENCE
        while asyncio.get_running_loop().time() < deadline:
            # The handler is looked up anew each time: its code may have been loaded again meanwhile.
            entry = self._runnable(name)
            kind = self._registry.kind(entry.spec.target) or ""
            trial = Trial(entry, self._placement.pool(entry, kind))
            ended = await self._attempt(trial, _assignment(trial, kind, event))
            if ended is not None:
                return self._result(trial, ended, event)
            await asyncio.sleep(_NAP)
        raise Unavailable("no worker is free for a test, or the gateway is stopping: try again in a moment")

    async def _attempt(self, trial: Trial, assignment: Assignment) -> Ended | None:
        if not self._workers.offer(assignment):
            return None
        self._under_way[trial.token] = trial
        try:
            return await trial.ended
        finally:
            del self._under_way[trial.token]
            if trial.ended.cancelled():
                self._workers.cancel(trial.token)

    def _result(self, trial: Trial, ended: Ended, event: Event) -> TrialResult:
        shown: list[dict[str, Any]] = []
        size = 0
        for published in ended.published:
            size += len(published.data or b"")
            try:
                new = self._check(published, trial.entry.handler.name, event)
            except FieldError as problem:
                ended.outcome, ended.error = Outcome.FAILED, Error("ValueError", f"ctx.publish: {problem}")
                ended.data, shown = None, []
                return TrialResult(trial, ended, shown, len(ended.published))
            if len(shown) < MOST and size <= MOST_BYTES:
                shown.append({k: v for k, v in document(to_event(new, 0)).items() if k != "seq"})
        return TrialResult(trial, ended, shown, len(ended.published) - len(shown))

    def _check(self, published: Published, handler: str, parent: Event) -> NewEvent:
        if published.data is not None and len(published.data) > self._max_event_bytes:
            raise FieldError("data", f"the data of {published.type!r} is over {self._max_event_bytes} bytes")
        fields = {"type": published.type, "causationid": parent.id, "correlationid": parent.correlationid}
        source = f"/handlers/{handler}"
        new = accept({**fields, **published.attributes}, published.data, self._clock(), source)
        new.binary = published.binary
        return new


def _assignment(trial: Trial, kind: str, event: Event) -> Assignment:
    handler, spec = trial.entry.handler, trial.entry.spec
    return Assignment(
        token=trial.token,
        run=0,
        attempt=1,
        handler=handler.name,
        revision=handler.revision,
        target=spec.target,
        kind=kind,
        pool=trial.pool,
        timeout=spec.timeout,
        event=event,
        alone=True,  # one that crashes harms nobody then, and one that lasts holds nobody up
        memory=spec.memory,
    )
