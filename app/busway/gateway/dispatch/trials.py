"""Trials: one attempt of a handler through a real worker, of which nothing is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from busway.domain.event import Event, NewEvent, document, to_event
from busway.domain.handler import FieldError
from busway.domain.run import Error, Outcome
from busway.gateway.attempts.inflight import InFlight
from busway.gateway.attempts.recorder import new_event
from busway.gateway.attempts.trial import Trial
from busway.gateway.dispatch.changes import HandlerChanges
from busway.gateway.dispatch.placement import Placement
from busway.gateway.dispatch.registry import RegisteredHandler, Registry
from busway.gateway.errors import Conflict, Unavailable
from busway.gateway.executors.port import Assignment, Ended

AT_ONCE = 2  # each takes a worker of its own, and there are few
WAITING = 16
MOST = 1000  # published events in a response
MOST_BYTES = 1024 * 1024  # bytes of data in them
_PATIENCE = 10.0  # seconds to wait for a free worker


class TrialResult(msgspec.Struct, frozen=True):
    """The outcome of a trial of `entry` in `pool`. `published`: the events that a run would have stored."""

    entry: RegisteredHandler
    pool: str
    trial: Trial
    ended: Ended
    published: list[dict[str, Any]]
    published_left_out: int


class Trials:
    """Runs trials, a few at a time.

    Args:
        in_flight: the attempts in flight; it hands out.
        changes, registry, placement: the registered handlers.
        max_event_bytes: the limit for the data of a published event, in bytes.
        clock: microseconds since 1970.
    """

    def __init__(
        self,
        in_flight: InFlight,
        changes: HandlerChanges,
        registry: Registry,
        placement: Placement,
        max_event_bytes: int,
        clock: Callable[[], int],
    ) -> None:
        self._in_flight, self._changes, self._registry = in_flight, changes, registry
        self._placement, self._max_event_bytes, self._clock = placement, max_event_bytes, clock
        self._free = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    async def run(self, name: str, new: NewEvent) -> TrialResult:
        """Run a handler once, also a paused one. If the caller is cancelled, the attempt is cancelled too.

        Raises:
            NotFound: there is no such handler.
            Conflict: its target cannot be run.
            Unavailable: too many trials wait already, or no worker is free.
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

    def _runnable(self, name: str) -> RegisteredHandler:
        entry = self._changes.live(name)
        problem = self._registry.missing(entry.spec.target)
        if problem is None and self._registry.own_kind(entry.spec.target) is None:
            problem = "this node does not have its code, send the test to one that has"
        if problem is not None:
            raise Conflict(f"the handler {name!r} cannot be run: {problem}")
        return entry

    async def _run(self, name: str, event: Event) -> TrialResult:
        deadline = asyncio.get_running_loop().time() + _PATIENCE
        while asyncio.get_running_loop().time() < deadline:
            # Looked up again each time: the handler's code may have been reloaded.
            entry = self._runnable(name)
            kind = self._registry.kind(entry.spec.target) or ""
            trial, pool = Trial(), self._placement.pool(entry, kind)
            if self._in_flight.try_out(trial, _assignment(trial, entry, kind, pool, event)):
                ended = await self._attempt(trial)
                if ended is not None:
                    return self._result(entry, pool, trial, ended, event)
            else:
                await self._room(deadline)
        raise Unavailable("no worker is free for a test, or the gateway is stopping: try again in a moment")

    async def _attempt(self, trial: Trial) -> Ended | None:
        try:
            return await trial.ended
        finally:
            self._in_flight.end_trial(trial)

    async def _room(self, deadline: float) -> None:
        room = self._in_flight.room
        room.clear()
        try:
            async with asyncio.timeout_at(deadline):
                await room.wait()
        except TimeoutError:
            return

    def _result(
        self, entry: RegisteredHandler, pool: str, trial: Trial, ended: Ended, event: Event
    ) -> TrialResult:
        shown: list[dict[str, Any]] = []
        size, now, most = 0, self._clock(), self._max_event_bytes
        for published in ended.published:
            size += len(published.data or b"")
            try:
                new = new_event(published, entry.handler.name, event, now, most)
            except FieldError as problem:
                error = Error("ValueError", f"ctx.publish: {problem}")
                failed = msgspec.structs.replace(ended, outcome=Outcome.FAILED, error=error, data=None)
                return TrialResult(entry, pool, trial, failed, [], len(ended.published))
            if len(shown) < MOST and size <= MOST_BYTES:
                shown.append({k: v for k, v in document(to_event(new, 0)).items() if k != "seq"})
        return TrialResult(entry, pool, trial, ended, shown, len(ended.published) - len(shown))


def _assignment(trial: Trial, entry: RegisteredHandler, kind: str, pool: str, event: Event) -> Assignment:
    handler, spec = entry.handler, entry.spec
    return Assignment(
        token=trial.token,
        run=0,
        attempt=1,
        handler=handler.name,
        revision=handler.revision,
        target=spec.target,
        kind=kind,
        pool=pool,
        timeout=spec.timeout,
        event=event,
        alone=True,  # so that a crash or a long trial does not affect other attempts
        memory=spec.memory,
    )
