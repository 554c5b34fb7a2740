"""Runs that are due later, and runs that expire.

The next ones wait in memory. The others stay in the store, where a sweep finds them in time. Due times are
wall-clock times and the clock may jump, so every timer is short and reads the clock again. A backoff is a
duration, not a time of day: when the clock is set back, the end of the backoff moves back too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from bisect import insort
from collections.abc import AsyncIterator, Callable
from itertools import count

import msgspec

from busway.domain.run import Error, Run
from busway.domain.times import SECOND
from busway.gateway.attempts.inflight import InFlight
from busway.gateway.dispatch.holding import Holding, weight
from busway.gateway.errors import Unavailable
from busway.gateway.store.port.commits import Commits
from busway.gateway.store.port.operations import Expire
from busway.gateway.store.port.reader import Reader

log = logging.getLogger("busway.dispatch")

HORIZON = 60 * SECOND
CAPACITY = 20_000
MAX_BYTES = 16 << 20
EXPIRE_AT_ONCE = 1_000
SWEEP_EVERY, PAUSE = 30.0, 1.0  # maximum and minimum seconds between two sweeps
TICK = 0.25  # seconds until a jump of the clock is noticed


class Sweep(msgspec.Struct, frozen=True):
    """What one read of the store found: runs that are held from now on and have to be placed.

    `rescan`: more runs became due at once than fit in memory, so all lanes must read the store.
    """

    runs: list[Run]
    rescan: bool


class Scheduler:
    """Yields runs that become due, and cancels runs that expired before they started.

    Args:
        commits, reader: the store.
        clock: microseconds since 1970.
        holding: the runs that dispatch holds.
        in_flight: the attempts in flight; their runs do not expire.
    """

    def __init__(
        self,
        commits: Commits,
        reader: Reader,
        clock: Callable[[], int],
        holding: Holding,
        in_flight: InFlight,
    ) -> None:
        self._commits, self._reader, self._clock = commits, reader, clock
        self._holding, self._in_flight = holding, in_flight
        self._later: list[tuple[int, int, int, Run]] = []  # by due time, the next one last
        self._entries = count()
        self._bytes = 0
        self._edge: int | None = None  # runs due later than this are in the store only
        self._swept = clock()
        self._forced = True
        self._expiry: int | None = 0
        self._offset = clock() - time.monotonic_ns() // 1000
        self._look_again = asyncio.Event()
        self._wake = asyncio.Event()

    def add(self, run: Run) -> None:
        """Add a run that is due later."""
        self._notice_jump()
        due = run.due or 0
        if due > self._clock() + HORIZON:
            self._holding.leave(run)
            return
        if self._edge is not None and due > self._edge:
            self._holding.leave(run)
            return
        insort(self._later, (-due, -run.id, next(self._entries), run))
        self._bytes += weight(run)
        while len(self._later) > CAPACITY or (self._bytes > MAX_BYTES and len(self._later) > 1):
            self._edge = -self._later[0][0]
            self._holding.leave(self._remove(0))
            self._look_again.set()
        if self._later[-1][3] is run:
            self._wake.set()

    def _remove(self, at: int) -> Run:
        run = self._later.pop(at)[3]
        self._bytes -= weight(run)
        return run

    def expire_at(self, moment: int) -> None:
        """Record that a run expires at `moment`, in microseconds since 1970."""
        if self._expiry is None or moment < self._expiry:
            self._expiry = moment

    def look_again(self) -> None:
        """Sweep the store soon, because it has due runs that are not in memory."""
        self._forced = True
        self._look_again.set()

    def _notice_jump(self) -> None:
        offset = self._clock() - time.monotonic_ns() // 1000
        back, self._offset = self._offset - offset, offset
        if back > SECOND:
            log.warning("the system clock was set back by %d s: retries are moved too", back // SECOND)
            self._put_back(back)
        elif back < -SECOND:
            self.look_again()  # runs that were due much later are due now

    def _put_back(self, back: int) -> None:
        later: list[tuple[int, int, int, Run]] = []
        for place, id_, entry, run in self._later:
            if run.attempt and run.due is not None:
                earlier = msgspec.structs.replace(run, due=run.due - back)
                self._holding.exchange(run, earlier)
                later.append((place + back, id_, entry, earlier))
            else:
                later.append((place, id_, entry, run))
        self._later = sorted(later)
        self._wake.set()

    async def due(self) -> AsyncIterator[list[Run]]:
        """Yield the runs that became due, without end."""
        while True:
            self._notice_jump()
            now = self._clock()
            runs: list[Run] = []
            while self._later and -self._later[-1][0] <= now:
                run = self._remove(-1)
                if self._holding.holds(run):
                    runs.append(run)
            self._wake.clear()
            if runs:
                yield runs
            wait = (-self._later[-1][0] - now) / SECOND if self._later else SWEEP_EVERY
            await _within(self._wake, min(wait, TICK) if self._later else wait)

    async def sweeps(self) -> AsyncIterator[Sweep]:
        """Read the runs that are due soon from the store, again and again. Yield what each read found."""
        while True:
            self._look_again.clear()
            self._forced = False
            try:
                found = await self._sweep()
            except Exception:
                log.exception("could not read due runs from the store; retrying in 1 s")
                self.look_again()
            else:
                yield found
            await asyncio.sleep(PAUSE)
            await _within(self._look_again, SWEEP_EVERY)
            while self._crowded() and not self._forced:
                await asyncio.sleep(PAUSE)  # the runs in memory are due before all others

    def _crowded(self) -> bool:
        return len(self._later) > CAPACITY // 2 or self._bytes > MAX_BYTES // 2

    async def _sweep(self) -> Sweep:
        # Lanes find the runs that became due before the last sweep: they read all due runs.
        now = self._clock()
        after, self._swept, self._edge = min(self._swept, now), now, None
        limit, max_bytes = CAPACITY + len(self._later), MAX_BYTES + self._bytes
        with self._holding.reading() as began:
            found = await self._reader.due(now + HORIZON, limit, after=after, max_bytes=max_bytes)
            runs = [run for run in found if self._holding.take_read(run, began)]
        more = len(found) == limit or sum(len(run.event.data or b"") for run in found) >= max_bytes
        if more:
            self._look_again.set()
        return Sweep(runs, more and (found[-1].due or 0) <= now)

    async def expire(self) -> None:
        """Cancel runs that expire, first those that expired while the gateway was stopped. Never returns."""
        while True:
            self._notice_jump()
            now = self._clock()
            if self._expiry is not None and self._expiry <= now:
                await self._expire_once(now)
            await asyncio.sleep(TICK)

    async def _expire_once(self, now: int) -> None:
        self._expiry = None
        error = Error("Expired", "the event's expirytime passed before an attempt started")
        try:
            while await self._commits.change(
                Expire(error=error, now=now, limit=EXPIRE_AT_ONCE, spare=self._in_flight.expiring())
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
