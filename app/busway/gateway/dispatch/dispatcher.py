"""Dispatcher: chooses which run starts next, and in which pool. Handlers take turns.

It sees only committed runs: through `committed`, or by reading the store.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import msgspec

from busway.domain.handler import Spec
from busway.domain.run import Run
from busway.domain.weburl import HTTP, read_url
from busway.gateway.attempts.inflight import Attempt, InFlight
from busway.gateway.attempts.recorder import Progress
from busway.gateway.dispatch.early import EarlyRuns
from busway.gateway.dispatch.holding import SHARE, Budget, Holding
from busway.gateway.dispatch.lanes import Lane, OrderedLane, Source
from busway.gateway.dispatch.placement import Placement
from busway.gateway.dispatch.registry import RegisteredHandler, Registry
from busway.gateway.dispatch.scheduler import Scheduler
from busway.gateway.store.port.commits import Commits, Committed
from busway.gateway.store.port.reader import Reader, RunningRun

log = logging.getLogger("busway.dispatch")

PATIENCE = 5.0  # seconds between two looks whether commits of other nodes are still unknown
AGAIN = 1.0  # seconds until something that failed unexpectedly is tried again
MOST_UNREAD = 2_000  # runs of one commit of another node that are read one by one
ROW = 64  # runs that a handler may start in a row while no other handler waits
Destination = tuple[str, str, int | str]
Destinations = set[tuple[Destination, bool]]
"""What has no room now: pool, kind, and `alone`.

Between them the host of a URL, or the handler id of a handler with workers of its own, else 0.
"""


class _Route(msgspec.Struct, frozen=True):
    """Where a lane's runs go now: looked up once for each pass over the lanes.

    `here`: the revision that this node runs, None if it does not have the code.
    """

    entry: RegisteredHandler
    here: int | None
    kind: str
    pool: str
    destination: Destination


class Dispatcher:
    """Hands due runs to the workers, fairly between handlers.

    Args:
        commits, reader: the store.
        registry: the registered handlers.
        in_flight: the attempts in flight; it hands out.
        placement: chooses the pool of a handler's attempts.
        clock: microseconds since 1970.
        timer: seconds of a monotonic clock.
    """

    def __init__(
        self,
        commits: Commits,
        reader: Reader,
        registry: Registry,
        in_flight: InFlight,
        placement: Placement,
        clock: Callable[[], int],
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._commits, self._registry, self._in_flight = commits, registry, in_flight
        self._placement, self._clock, self._timer = placement, clock, timer
        self._holding, self._budget = Holding(in_flight.runs), Budget()
        self._source = Source(reader, self._holding, self._place, clock)
        self._parked: dict[int, Run] = {}  # an earlier attempt of each may still run
        self._lanes: dict[int, Lane] = {}
        self._turn: deque[Lane] = deque()
        self._reads: set[asyncio.Task[None]] = set()
        self._pumping = self._open = self._leads = False
        self._early = EarlyRuns(registry)
        self._others: deque[Committed] = deque()
        self._following = False
        self._alarm: asyncio.TimerHandle | None = None
        self._alarm_at = 0.0
        self._loop = asyncio.get_running_loop()
        self._loops: list[asyncio.Task[None]] = []
        self.scheduler = Scheduler(commits, reader, clock, self._holding, in_flight)

    def start(self) -> None:
        """Start handing out runs, first those that the store already has: this node leads."""
        self._open = self._leads = True
        self._rescan()
        loops = (self._place_due, self._place_swept, self._read_early, self.scheduler.expire)
        self._loops = [self._loop.create_task(self._keep_up(loop)) for loop in loops]

    async def adopt(self) -> list[RunningRun]:
        """Record the attempts that other nodes have, before `start`. Return them.

        Raises:
            Unavailable: the store cannot be read.
        """
        adopted = []
        with self._holding.reading() as began:
            for found in await self._source.reader.running():
                run, entry = found.run, self._registry.entry(found.run.handler)
                known = run.id in self._in_flight.runs or self._holding.is_stale(run.id, began)
                if known or entry is None:
                    continue
                handler, number = entry.handler, found.attempt
                self._in_flight.hold(
                    Attempt(found.token, run, number, handler.name, handler.revision, entry.spec, found.pool)
                )
                adopted.append(found)
        return adopted

    async def adopt_lingering(self, own: int) -> list[RunningRun]:
        """Record the attempts of other nodes that have ended and may still run, before `start`.

        `own`: the id of this node. Return them.

        Raises:
            Unavailable: the store cannot be read.
        """
        adopted = []
        for found in await self._source.reader.lingering():
            run, entry = found.run, self._registry.entry(found.run.handler)
            if found.node == own or entry is None or run.id in self._in_flight.lingering:
                continue
            handler = entry.handler
            self._in_flight.linger(
                Attempt(0, run, found.attempt, handler.name, handler.revision, entry.spec, "")
            )
            adopted.append(found)
        return adopted

    def stop(self) -> None:
        """Stop handing out runs. Waiting runs stay in the store."""
        self._open = False
        if self._alarm is not None:
            self._alarm.cancel()
        for task in (*self._loops, *self._reads):
            task.cancel()

    def committed(self, change: Committed) -> None:
        """Apply a commit: release runs that ended, add runs that may start if this node leads."""
        if change.handlers or change.rules:
            self._registry.take(change.handlers, change.rules)
            self._change_over()
        unread = change.unread or (change.ended and not change.final)
        if self._others or (self._leads and change.foreign and unread):
            self._follow_others(change)
            return
        for id_ in change.ended:
            self._let_go(id_)
        if not self._leads:
            self._early.know(change)
            return
        self._take_new(change, change.runs)
        if change.rescan:
            self._rescan()
        self.wake()

    def take(self, progress: Progress) -> None:
        """Add runs whose attempts never started, and release the slots that became free."""
        if not (progress.returned or progress.freed or progress.room):
            return
        for run in progress.returned:
            if self._holding.take(run):
                self._place(run)
            self._free(run)
        for run in progress.freed:
            self._free(run)
            waiting = self._parked.pop(run.id, None)
            if waiting is not None:
                self._place(waiting)
        self.wake()

    def wake(self) -> None:
        """Look for runs to start, in the next tick of the event loop."""
        if self._open and not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def waiting(self, handler: int) -> int:
        """Return how many runs of a handler wait in memory."""
        lane = self._lanes.get(handler)
        return len(lane) if lane else 0

    @property
    def parked(self) -> int:
        """How many runs wait until an earlier attempt, which timed out or was cancelled, has stopped."""
        return len(self._parked)

    # -- runs in memory

    def _take_new(self, change: Committed, runs: list[Run]) -> None:
        """Add the runs of a commit, and those that came before it and should not have."""
        if change.number:  # there may be other nodes
            if self._early.know(change):
                runs = [*runs, *self._early.ready()]
            else:
                runs = [run for run in runs if not self._early.hold(run, change.number)]
                if self._early.full:
                    self._rescan()
        for run in runs:
            if self._holding.take(run):
                self._place(run)

    def _place(self, run: Run) -> None:
        if run.expires_at is not None and run.attempt == 0:
            self.scheduler.expire_at(run.expires_at)
        lane = self._lanes.get(run.handler)
        if lane is None or not lane.queued:
            lane = self._lane(run.handler)
        if run.due is not None and run.due > self._clock():
            self.scheduler.add(run)
            pushed_out = lane.wait(run) if run.attempt else []
        elif run.id in self._in_flight.lingering:
            self._parked[run.id] = run
            return
        else:
            pushed_out = lane.add(run)
        for out in pushed_out:
            self._holding.leave(out)

    async def _keep_up(self, loop: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a loop that never returns. If it fails, start it again and read the waiting runs again."""
        while True:
            try:
                await loop()
            except Exception:
                log.exception("a part of dispatch failed; it starts again in %g s", AGAIN)
            await asyncio.sleep(AGAIN)
            self._rescan_and_wake()

    async def _place_due(self) -> None:
        async for runs in self.scheduler.due():
            for run in runs:
                self._place(run)
            self.wake()

    async def _place_swept(self) -> None:
        async for found in self.scheduler.sweeps():
            for run in found.runs:
                self._place(run)
            if found.rescan:
                self._rescan()
            self.wake()

    async def _read_early(self) -> None:
        while True:
            await asyncio.sleep(PATIENCE)
            if self._early.is_stuck():
                self._rescan_and_wake()

    def _let_go(self, id_: int) -> None:
        if self._early.runs:
            self._early.end(id_)
        waited = self._holding.end(id_)
        if id_ not in self._in_flight.runs:
            self._lift(id_, waited)
            return
        run = self._in_flight.stored(id_)
        if run is not None:
            self._free(run)

    def _lift(self, id_: int, run: Run | None) -> None:
        """Free the key of a run that was cancelled while it waited for its next attempt."""
        self._parked.pop(id_, None)
        for lane in self._lanes.values() if run is None else [self._lane(run.handler)]:
            if lane.ordered:
                lane.lift(id_)
                self._queue(lane)

    def _free(self, run: Run) -> None:
        lane = self._lanes.get(run.handler)
        if lane is not None and lane.ordered:
            # It may have a head now. Other lanes stay in the turn while they have runs.
            lane.free(run)
            self._queue(lane)

    # -- lanes

    def _lane(self, handler: int) -> Lane:
        lane = self._lanes.get(handler)
        if lane is None:
            entry = self._registry.entry(handler)
            if entry is not None and entry.spec.ordered:
                lane = OrderedLane(handler, self._budget, self._in_flight.keys(handler))
            else:
                lane = Lane(handler, self._budget)
            self._lanes[handler] = lane
        self._queue(lane)
        return lane

    def _queue(self, lane: Lane) -> None:
        if not lane.queued and not lane.closed:
            lane.queued = True
            self._turn.append(lane)

    def _change_over(self) -> None:
        """Replace each lane by one of the other kind whose handler's `ordered` has changed."""
        for old in list(self._lanes.values()):
            entry = self._registry.entry(old.handler)
            if entry is None or entry.spec.ordered is old.ordered:
                continue
            for waiting in old.close():
                self._holding.leave(waiting)
            del self._lanes[old.handler]
            self._lane(old.handler).pace = old.pace

    # -- reading from the store

    def _rescan(self) -> None:
        self._early.clear()
        for entry in self._registry.live():
            for run in self._lane(entry.handler.id).rescan():
                self._holding.leave(run)
        self.scheduler.look_again()

    def _follow_others(self, change: Committed) -> None:
        """Apply commits in order, those of other nodes after the runs were read that they name."""
        self._others.append(change)
        if not self._following:
            self._following = True
            read = self._loop.create_task(self._apply_others())
            self._reads.add(read)
            read.add_done_callback(self._reads.discard)

    async def _apply_others(self) -> None:
        try:
            while self._others:
                change = self._others[0]
                ids = [*(() if change.final else change.ended), *change.unread] if change.foreign else []
                many = len(ids) > MOST_UNREAD
                with self._holding.reading() as began:
                    waiting, running = await self._read_named(change.ended if many else ids)
                    fresh = [run for run in waiting if not self._holding.is_stale(run.id, began)]
                    self._others.popleft()
                    # The attempts end first: an ordered run that waits again keeps its key.
                    for id_ in change.ended:
                        if change.final or not (change.foreign and self._goes_on(id_, waiting, running)):
                            self._let_go(id_)
                    self._take_new(change, [*change.runs, *fresh])
                if change.rescan or many:
                    self._rescan()
                self.wake()
        finally:
            self._following = False

    def _goes_on(self, id_: int, waiting: list[Run], running: list[RunningRun]) -> bool:
        """Return whether a run's attempt in flight here is newer than the one that another node ended."""
        attempt = self._in_flight.runs.get(id_)
        if attempt is None or attempt.token not in self._in_flight.live:
            return False
        unmarked = any(run.id == id_ and run.attempt == attempt.number - 1 for run in waiting)
        return unmarked or any(each.token == attempt.token for each in running)

    async def _read_named(self, ids: Sequence[int]) -> tuple[list[Run], list[RunningRun]]:
        """Return those of these runs that wait, and those that run."""
        reader, here = self._source.reader, self._in_flight
        while ids:
            live = [id_ for id_ in ids if id_ in here.runs and here.runs[id_].token in here.live]
            try:
                waiting = await reader.waiting_of([*ids], SHARE)
                running = await reader.running(live) if live else []
            except Exception:
                log.exception("could not read runs of other nodes; trying again in %g s", AGAIN)
                await asyncio.sleep(AGAIN)
            else:
                if waiting.more:
                    self._loop.call_soon(self._rescan_and_wake)
                return waiting.runs, running
        return [], []

    def _rescan_and_wake(self) -> None:
        self._rescan()
        self.wake()

    def _read_on(self, lane: Lane) -> None:
        lane.reading = True
        read = self._loop.create_task(self._refill(lane))
        self._reads.add(read)
        read.add_done_callback(self._reads.discard)

    async def _refill(self, lane: Lane) -> None:
        try:
            await lane.read(self._source)
        except Exception:
            log.exception("could not read waiting runs from the store; retrying in %g s", AGAIN)
            await asyncio.sleep(AGAIN)
            lane.more = True
        lane.reading = False
        self._queue(lane)
        self.wake()

    # -- handing out

    def _pump(self) -> None:
        self._pumping = False
        if not self._open or self._commits.saturated:
            return
        full: Destinations = set()
        routes: dict[Lane, _Route | None] = {}
        turn, idle = self._turn, 0
        while idle < len(turn):
            lane = turn.popleft()
            if lane.closed:
                continue
            if lane.wants:
                self._read_on(lane)
            try:
                if lane not in routes:
                    routes[lane] = self._route(lane)
                started = self._serve(lane, routes[lane], full, 1 if turn else ROW)
            except Exception:  # no lane may be left that nothing serves
                log.exception("runs of handler %d cannot start; trying again in %g s", lane.handler, AGAIN)
                self._wake_in(AGAIN)
                started = False
            if lane.active:
                turn.append(lane)
                idle = 0 if started else idle + 1
            else:
                lane.queued = False

    def _route(self, lane: Lane) -> _Route | None:
        """Return where the runs of a lane go, None if they must wait."""
        entry = self._registry.entry(lane.handler)
        if entry is None or self._registry.obstacle(entry):
            return None
        target = entry.spec.target
        kind = self._registry.kind(target) or ""
        pool = self._placement.pool(entry, kind)
        here = None if self._registry.own_kind(target) is None else entry.here
        apart: int | str = 0 if entry.spec.memory is None else lane.handler
        if pool == HTTP:
            apart = read_url(target).origin
        return _Route(entry, here, kind, pool, (pool, kind, apart))

    def _serve(self, lane: Lane, route: _Route | None, full: Destinations, most: int) -> bool:
        """Hand out up to `most` runs of a lane. Return False if none could start."""
        served = 0
        while route is not None and served < most and (run := lane.peek()) is not None:
            if not self._start(run, lane, route, full):
                break
            served += 1
        return served > 0

    def _start(self, run: Run, lane: Lane, route: _Route, full: Destinations) -> bool:
        """Hand out a lane's next run, or remove it if it must not start. Return False if it must wait."""
        if not self._holding.holds(run):
            lane.pop(run)  # it was cancelled while it waited
            return True
        if run.expires_at is not None and run.attempt == 0 and run.expires_at <= self._clock():
            lane.pop(run)
            self._holding.leave(run)  # the scheduler cancels it in the store
            return True
        entry = route.entry
        kept_out = full and (route.destination, run.alone) in full
        if kept_out or (entry.limited and self._is_at_limit(lane, entry.spec)):
            return False
        if not self._in_flight.start(run, entry.handler, entry.spec, route.kind, route.pool, route.here):
            full.add((route.destination, run.alone))
            return False
        lane.pop(run)
        self._holding.leave(run)
        if entry.spec.rate is not None:
            lane.pace.start(entry.spec.rate, self._timer())
        return True

    def _is_at_limit(self, lane: Lane, spec: Spec) -> bool:
        """Return whether the handler's limits delay its runs now."""
        if spec.concurrency is not None and self._in_flight.running(lane.handler) >= spec.concurrency:
            return True
        wait = lane.pace.wait(spec.rate, self._timer()) if spec.rate is not None else 0
        if wait <= 0:
            return False
        self._wake_in(wait)
        return True

    def _wake_in(self, seconds: float) -> None:
        moment = self._loop.time() + seconds
        if self._alarm is not None:
            if self._alarm_at <= moment:
                return
            self._alarm.cancel()
        self._alarm, self._alarm_at = self._loop.call_at(moment, self._ring), moment

    def _ring(self) -> None:
        self._alarm = None
        self.wake()
