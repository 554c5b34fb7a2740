"""Which run starts next, and where. Handlers share the workers in turn.

Only committed runs get here, through `committed` or by reading the store.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections import deque
from collections.abc import Callable

from app.dispatch.holding import Holding
from app.dispatch.lanes import CAPACITY, Lane
from app.dispatch.placement import Placement
from app.dispatch.registry import Entry, Registry
from app.dispatch.scheduler import Scheduler
from app.domain.attempt import Attempt, Underway
from app.domain.run import Run
from app.store.base import Commits, Committed, Reader
from app.workers.base import Assignment, Workers

log = logging.getLogger("busway.dispatch")

MAX_BACKLOG = 5_000  # outcomes not yet stored: beyond it nothing new starts


class Dispatcher:
    """Hands due runs to the workers, fairly between handlers.

    Args:
        commits, reader: the store.
        registry: the handlers in force.
        workers: where attempts go.
        underway: the attempts in hand; shared with the recorder.
        placement: says which pool a handler's attempts go to.
        clock: microseconds since 1970.
    """

    def __init__(
        self,
        commits: Commits,
        reader: Reader,
        registry: Registry,
        workers: Workers,
        underway: Underway,
        placement: Placement,
        clock: Callable[[], int],
    ) -> None:
        self._commits, self._reader, self._registry, self._workers = commits, reader, registry, workers
        self._underway, self._placement, self._clock = underway, placement, clock
        self._holding = Holding()
        self._tokens: dict[int, int] = {}
        self._lanes: dict[int, Lane] = {}
        self._turn: deque[Lane] = deque()
        self._reads: set[asyncio.Task[None]] = set()
        self._pumping = self._open = False
        self._loop = asyncio.get_running_loop()
        self._random = random.Random(secrets.randbits(128))  # noqa: S311 - tokens differ, they hide nothing
        self.scheduler = Scheduler(commits, reader, clock, self._holding, self._place, self.wake)

    def start(self) -> None:
        """Begin to hand out runs: first of all what the store has from before."""
        self._open = True
        self._rescan()
        self.scheduler.start()

    def stop(self) -> None:
        """Hand out nothing more; what waits stays in the store."""
        self._open = False
        self.scheduler.stop()
        for read in self._reads:
            read.cancel()

    def committed(self, change: Committed) -> None:
        """Take note of a commit: let go of runs that ended, take in those that may start."""
        for id_ in change.ended:
            self._let_go(id_)
        for run in change.runs:
            self._holding.again(run.id)
            self._admit(run)
        if change.rescan:
            self._rescan()
        self.wake()

    def returned(self, tokens: list[int]) -> None:
        """Take back attempts that never started."""
        for token in tokens:
            attempt = self._underway.pop(token, None)
            if attempt is not None:
                self._tokens.pop(attempt.run.id, None)
                self._place(attempt.run)
        self.wake()

    def wake(self) -> None:
        """Look in the next tick of the loop what can start."""
        if self._open and not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def waiting(self, handler: int) -> int:
        """Return how many runs of a handler wait in memory."""
        lane = self._lanes.get(handler)
        return len(lane) if lane else 0

    # -- what is held

    def _admit(self, run: Run) -> None:
        if self._holding.take(run):
            self._place(run)

    def _place(self, run: Run) -> None:
        if run.expires_at is not None and run.attempt == 0:
            self.scheduler.expire_at(run.expires_at)
        if run.due is not None and run.due > self._clock():
            self.scheduler.add(run)
            return
        pushed_out = self._lane(run.handler).add(run)
        if pushed_out is not None:
            self._holding.leave(pushed_out)
            if pushed_out.due is not None:
                self.scheduler.look_again()

    def _let_go(self, id_: int) -> None:
        self._holding.end(id_)
        token = self._tokens.pop(id_, None)
        if token is not None and self._underway.pop(token, None) is not None:
            self._workers.cancel(token)

    def _lane(self, handler: int) -> Lane:
        lane = self._lanes.get(handler)
        if lane is None:
            lane = self._lanes[handler] = Lane(handler)
        if not lane.queued:
            lane.queued = True
            self._turn.append(lane)
        return lane

    # -- reading on from the store

    def _rescan(self) -> None:
        for entry in self._registry.live():
            self._lane(entry.handler.id).more = True
        self.scheduler.look_again()

    def _read_on(self, lane: Lane) -> None:
        lane.reading, lane.more = True, False
        read = self._loop.create_task(self._refill(lane))
        self._reads.add(read)
        read.add_done_callback(self._reads.discard)

    async def _refill(self, lane: Lane) -> None:
        limit = CAPACITY + self._holding.of(lane.handler)
        with self._holding.reading():
            try:
                found = await self._reader.waiting(lane.handler, limit)
            except Exception:
                log.exception("reading waiting runs failed; trying again")
                await asyncio.sleep(1)
                lane.more, found = True, []
            lane.reading = False
            lane.more = lane.more or len(found) == limit
            for run in found:
                self._admit(run)
        self._lane(lane.handler)
        self.wake()

    # -- handing out

    def _pump(self) -> None:
        self._pumping = False
        if not self._open or self._commits.backlog > MAX_BACKLOG:
            return
        full: set[tuple[str, str, bool, int]] = set()
        idle = 0
        while idle < len(self._turn):
            lane = self._turn.popleft()
            if lane.wants:
                self._read_on(lane)
            started = self._serve(lane, full)
            if len(lane) or lane.wants:
                self._turn.append(lane)
                idle = 0 if started else idle + 1
            else:
                lane.queued = False

    def _serve(self, lane: Lane, full: set[tuple[str, str, bool, int]]) -> bool:
        run = lane.peek()
        entry = self._registry.entry(lane.handler)
        if run is None or entry is None or self._registry.obstacle(entry):
            return False
        if not self._holding.holds(run):
            lane.pop()  # it was cancelled while it waited
            return True
        if run.attempt == 0 and run.expires_at is not None and run.expires_at <= self._clock():
            self._holding.leave(lane.pop())  # the scheduler cancels it in the store
            return True
        kind = self._registry.kind(entry.spec.target) or ""
        pool = self._placement.pool(entry, kind)
        place = (pool, kind, run.alone, 0 if entry.spec.memory is None else lane.handler)
        if place in full:
            return False
        if self._offer(run, entry, pool, kind):
            lane.pop()
            return True
        full.add(place)
        return False

    def _offer(self, run: Run, entry: Entry, pool: str, kind: str) -> bool:
        handler, spec = entry.handler, entry.spec
        token = self._random.getrandbits(63) | 1
        assignment = Assignment(
            token=token,
            run=run.id,
            attempt=run.attempt + 1,
            handler=handler.name,
            revision=handler.revision,
            target=spec.target,
            kind=kind,
            pool=pool,
            timeout=spec.timeout,
            event=run.event,
            alone=run.alone,
            memory=spec.memory,
        )
        if not self._workers.offer(assignment):
            return False
        self._underway[token] = Attempt(
            token, run, run.attempt + 1, handler.name, handler.revision, spec, pool
        )
        self._tokens[run.id] = token
        return True
