"""Runs that are due later, and runs that expire.

The nearest ones wait in memory; the rest stays in the store, where a sweep finds it in time. Due
times are wall-clock times, so every timer is short and looks at the clock again: the clock may jump.
A backoff is a time that passes, not a time of day: when the clock is put back, so is the backoff's end.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import time
from collections.abc import Callable

from app.dispatch.holding import Holding
from app.domain.run import Error, Run
from app.domain.times import SECOND
from app.errors import Unavailable
from app.store.base import Commits, Reader
from app.store.operations import Expire

log = logging.getLogger("busway.dispatch")

HORIZON = 60 * SECOND
CAPACITY = 20_000
EXPIRE_AT_ONCE = 1_000
SWEEP_EVERY = 30.0
TICK = 0.25  # seconds: how soon a jump of the clock is noticed


class Scheduler:
    """Places runs whose time has come and cancels runs that expired unstarted.

    Args:
        commits, reader: the store.
        clock: microseconds since 1970.
        holding: the runs that dispatch holds.
        place: puts a held run where it belongs: its lane, or back here.
        wake: have dispatch look what can start.
        in_hand: tells which runs workers have; these do not expire.
    """

    def __init__(
        self,
        commits: Commits,
        reader: Reader,
        clock: Callable[[], int],
        holding: Holding,
        place: Callable[[Run], None],
        wake: Callable[[], None],
        in_hand: Callable[[], list[int]],
    ) -> None:
        self._commits, self._reader, self._clock = commits, reader, clock
        self._holding, self._place, self._wake_dispatch = holding, place, wake
        self._in_hand = in_hand
        self._heap: list[tuple[int, int, Run]] = []
        self._expiry: int | None = None
        self._offset = clock() - time.monotonic_ns() // 1000
        self._look_again = asyncio.Event()
        self._wake = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begin: sweep the store, expire what expired while the gateway was away."""
        self._expiry = 0
        self._loops = [asyncio.create_task(loop()) for loop in (self._sweep, self._fire, self._expire)]

    def stop(self) -> None:
        """Stop all timers."""
        for loop in self._loops:
            loop.cancel()

    def add(self, run: Run) -> None:
        """Take a run that is due later."""
        self._notice_jump()
        due = run.due or 0
        if due > self._clock() + HORIZON:
            self._holding.leave(run)
            return
        if len(self._heap) >= CAPACITY:
            self._holding.leave(run)
            self.look_again()
            return
        if not self._heap or due < self._heap[0][0]:
            self._wake.set()
        heapq.heappush(self._heap, (due, run.id, run))

    def expire_at(self, moment: int) -> None:
        """Note that some run expires then."""
        if self._expiry is None or moment < self._expiry:
            self._expiry = moment

    def look_again(self) -> None:
        """Sweep the store soon: it has due runs that nobody holds."""
        self._look_again.set()

    def _notice_jump(self) -> None:
        offset = self._clock() - time.monotonic_ns() // 1000
        back, self._offset = self._offset - offset, offset
        if back > SECOND:
            log.warning("the clock was put back by %d s", back // SECOND)
            self._put_back(back)

    def _put_back(self, back: int) -> None:
        for _, _, run in self._heap:
            if run.attempt and run.due is not None:
                run.due -= back
        self._heap = [(run.due or 0, run.id, run) for _, _, run in self._heap]
        heapq.heapify(self._heap)
        self._wake.set()

    async def _fire(self) -> None:
        while True:
            self._notice_jump()
            now = self._clock()
            while self._heap and self._heap[0][0] <= now:
                run = heapq.heappop(self._heap)[2]
                if self._holding.holds(run):
                    self._place(run)
            self._wake_dispatch()
            self._wake.clear()
            wait = (self._heap[0][0] - now) / SECOND if self._heap else SWEEP_EVERY
            await _within(self._wake, min(wait, TICK) if self._heap else wait)

    async def _sweep(self) -> None:
        while True:
            self._look_again.clear()
            try:
                await self._sweep_once()
            except Exception:
                log.exception("sweeping due runs failed; trying again")
                self._look_again.set()
            await asyncio.sleep(1)
            await _within(self._look_again, SWEEP_EVERY)

    async def _sweep_once(self) -> None:
        limit = CAPACITY + len(self._heap)
        with self._holding.reading():
            found = await self._reader.due(self._clock() + HORIZON, limit)
            if len(found) == limit:
                self._look_again.set()
            for run in found:
                if self._holding.take(run):
                    self._place(run)
        self._wake_dispatch()

    async def _expire(self) -> None:
        while True:
            now = self._clock()
            if self._expiry is not None and self._expiry <= now:
                await self._expire_once(now)
            await asyncio.sleep(TICK)

    async def _expire_once(self, now: int) -> None:
        self._expiry = None
        error = Error("Expired", "the event's expirytime passed before an attempt started")
        try:
            while await self._commits.change(
                Expire(error=error, now=now, limit=EXPIRE_AT_ONCE, spare=self._in_hand())
            ):
                pass
            upcoming = await self._reader.next_expiry()
        except Unavailable:
            upcoming = now + SECOND
        if upcoming is not None:
            self.expire_at(max(upcoming, now + 1))


async def _within(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        pass
