"""Replays: run stored events again, in small steps behind live events.

The leader drives all replays. Each step finds some events and creates their runs in one short operation,
which also stores the position. So a replay goes on where it was after a restart, or on another node. Runs are
created only while few runs of the replay are unfinished. They have the lowest priority of their handler.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial

from busway.contract.problems import BadField
from busway.contract.replays import ReplayIn
from busway.domain.event import Event
from busway.domain.filter import Test, View
from busway.domain.replay import ReplayState
from busway.domain.run import Error
from busway.gateway.dispatch.registry import RegisteredHandler, Registry
from busway.gateway.errors import BuswayError, Conflict, Invalid, NotFound
from busway.gateway.store.port.commits import Commits, Committed
from busway.gateway.store.port.operations import CancelReplay, CreateReplay, FinishReplay, ReplayEvents
from busway.gateway.store.port.reader import Reader, ReplayRecord

log = logging.getLogger("busway.replays")

MOST = 20  # unfinished replays
STEP_EVENTS = 250
STEP_BYTES = 1 << 20
AHEAD = 1_000  # unfinished runs of one replay
CANCEL_AT_ONCE = 500
PAUSE = 0.02  # minimum seconds between steps
SHARE = 3  # length of a pause as a multiple of the steps before it
LONGEST_PAUSE = 1.0  # seconds, while runs are unfinished
SCAN = 0.5  # seconds for which one step looks for events that match
AGAIN = 60.0  # seconds until the store is read without a notification


class Replays:
    """Creates and cancels replays, and drives them while this node leads.

    Args:
        commits, reader: the store.
        registry: the handlers in force.
        clock: microseconds since 1970.

    Attributes:
        unfinished: replays that are not finished, 0 while another node leads.
        created: runs that this node has created.
    """

    def __init__(
        self, commits: Commits, reader: Reader, registry: Registry, clock: Callable[[], int]
    ) -> None:
        self._commits, self._reader, self._registry, self._clock = commits, reader, registry, clock
        self._changed = asyncio.Event()
        self._driving: asyncio.Task[None] | None = None
        self.unfinished = self.created = 0

    def committed(self, change: Committed) -> None:
        """Look at the replays again if another node created or cancelled one."""
        if change.replays:
            self._changed.set()

    def start(self) -> None:
        """Drive the replays: this node leads."""
        self._driving = asyncio.get_running_loop().create_task(self._go_on())

    def stop(self) -> None:
        """Drive them no more. A step that the committer already has is still written."""
        if self._driving is not None:
            self._driving.cancel()
        self.unfinished = 0

    async def create(self, entry: RegisteredHandler, wanted: ReplayIn) -> ReplayRecord:
        """Create a replay of a handler.

        Raises:
            Invalid: `after` is not below `before`.
            Conflict: there are too many.
            NotFound: the handler was deleted meanwhile.
        """
        newest, _ = await self._reader.totals()
        before = newest + 1 if wanted.before is None else min(wanted.before, newest + 1)
        after = wanted.after or 0
        if wanted.before is not None and after >= wanted.before:
            msg = f"after must be below before, which is {wanted.before}: both bounds are exclusive"
            raise Invalid.of([BadField(["body", "after"], msg)])
        operation = CreateReplay(
            handler=entry.handler.id,
            types=list(wanted.types or entry.spec.events),
            after=min(after, before - 1),
            before=before,
            shadow=wanted.shadow,
            now=self._clock(),
            most=MOST,
        )
        id_ = await self._commits.change(operation)
        if id_ is None:
            raise NotFound(f"the handler {entry.handler.name!r} was deleted: GET /v1/handlers lists them")
        if not id_:
            raise Conflict(f"{MOST} replays are unfinished: wait until one has finished, or cancel one")
        self._changed.set()
        return await self.find(id_)

    async def find(self, id_: int) -> ReplayRecord:
        """Return a replay.

        Raises:
            NotFound: there is none.
        """
        found = await self._reader.replay(id_)
        if found is None:
            raise NotFound(f"there is no replay {id_}: GET /v1/replays lists them")
        return found

    async def cancel(self, id_: int) -> ReplayRecord:
        """Cancel a replay and its unfinished runs.

        Raises:
            NotFound: there is none.
            Conflict: it has ended.
        """
        found = await self.find(id_)
        error = Error("ReplayCancelled", f"replay {id_} was cancelled")
        more = await self._cancel(found, error) if found.state is ReplayState.RUNNING else None
        if more is None:
            state = (await self.find(id_)).state
            raise Conflict(f"replay {id_} is {state}: only running replays can be cancelled")
        while more:
            more = await self._cancel(found, error)
        await self._commits.change(FinishReplay(replay=id_, now=self._clock()))
        return await self.find(id_)

    async def _cancel(self, replay: ReplayRecord, error: Error) -> bool | None:
        """Cancel some runs of a replay. Return whether there may be more, None if the replay has ended."""
        step = CancelReplay(replay=replay.id, error=error, now=self._clock(), limit=CANCEL_AT_ONCE)
        ids = await self._commits.change(step)
        return None if ids is None else len(ids) == CANCEL_AT_ONCE

    # -- driving

    async def _go_on(self) -> None:
        pause, troubled = PAUSE, False
        while True:
            self._changed.clear()
            began = time.monotonic()
            try:
                advanced, unfinished = await self._advance()
                troubled = False
            except BuswayError as problem:
                if not troubled:
                    log.warning("replays are paused, they continue: %s", problem.detail)
                advanced, unfinished, troubled = False, True, True
            except Exception:
                log.exception("replays failed, they continue")
                advanced, unfinished = False, True
            if advanced:
                pause = PAUSE
                await asyncio.sleep(max(PAUSE, SHARE * (time.monotonic() - began)))
            else:
                pause = min(2 * pause, LONGEST_PAUSE) if unfinished else AGAIN
                await self._wait(pause)
                pause = min(pause, LONGEST_PAUSE)

    async def _wait(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def _advance(self) -> tuple[bool, bool]:
        """Advance each replay by one step. Return whether one advanced, and whether some are unfinished."""
        found = await self._reader.unfinished_replays(AHEAD)
        self.unfinished = len(found)
        advanced = [await self._step(replay, runs) for replay, runs in found]
        return any(advanced), bool(found)

    async def _step(self, replay: ReplayRecord, unfinished: int) -> bool:
        entry = self._registry.entry(replay.handler)
        if entry is not None and entry.handler.deleted:  # its waiting runs are cancelled, others finish
            return not unfinished and await self._finish(replay)
        if replay.state is ReplayState.CANCELLED:
            error = Error("ReplayCancelled", f"replay {replay.id} was cancelled")
            return await self._end(replay, error, unfinished)
        if replay.position >= replay.before - 1:
            return not unfinished and await self._finish(replay)
        if entry is None or unfinished > AHEAD - STEP_EVENTS:
            return False
        await self._run_more(replay, entry)
        return True

    async def _end(self, replay: ReplayRecord, error: Error, unfinished: int) -> bool:
        """Cancel what is unfinished of a replay. Return whether something was to do."""
        if unfinished:
            await self._cancel(replay, error)
        return await self._finish(replay)

    async def _finish(self, replay: ReplayRecord) -> bool:
        done: bool = await self._commits.change(FinishReplay(replay=replay.id, now=self._clock()))
        return done

    async def _run_more(self, replay: ReplayRecord, entry: RegisteredHandler) -> None:
        """Create runs for the next events. Without any for some time, store the position only."""
        test = None if entry.test is None else partial(_passes, entry.test)
        position, events = replay.position, list[int]()
        end = time.monotonic() + SCAN
        while not events and position < replay.before - 1 and time.monotonic() < end:
            found = await self._reader.past_events(
                replay.types,
                test,
                after=position,
                before=replay.before,
                limit=STEP_EVENTS,
                max_bytes=STEP_BYTES,
            )
            position, events = found.position, found.events
        step = ReplayEvents(
            replay=replay.id, events=events, after=replay.position, until=position, now=self._clock()
        )
        self.created += len(await self._commits.change(step))


def _passes(test: Test, event: Event) -> bool:
    return test(View(event))
