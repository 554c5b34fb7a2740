"""The waiting runs of one handler in memory: the first of them, never all.

A lane holds at most `CAPACITY` runs and its share of the bytes. The rest stays in the store and is read
when the lane runs low, so that a million waiting runs take no more memory than a thousand.
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections import deque
from collections.abc import Callable, Container
from functools import lru_cache
from itertools import count, islice

import msgspec

from busway.domain.run import Run
from busway.gateway.dispatch.holding import SHARE, TOTAL, Budget, Holding, weight
from busway.gateway.dispatch.order import Order
from busway.gateway.store.port.reader import KeyRuns, Reader

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
LATE = 0.02  # seconds by which a start may miss its slot without moving the later slots


@lru_cache(maxsize=1024)
def interval(rate: str) -> float:
    """Return the seconds between two starts for a rate such as `100/s`."""
    count, _, unit = rate.partition("/")
    return _UNITS[unit] / int(count)


class Pace:
    """Rate limit of a handler: a leaky bucket of size one.

    Slots are one interval apart. A start that is a little late (because of a timer or a busy worker) does not
    move the later slots; otherwise the rate would never be reached. After a longer pause the slots begin
    again at the current time, so no starts are saved up. In any window of W seconds there are at most
    (W + LATE) / interval + 1 starts. Times are seconds of a monotonic clock.
    """

    def __init__(self) -> None:
        self._last = float("-inf")

    def wait(self, rate: str, now: float) -> float:
        """Return the seconds until the next start. At zero or below, a run may start now."""
        return self._last + interval(rate) - now

    def start(self, rate: str, now: float) -> None:
        """Record a start."""
        moment = self._last + interval(rate)
        self._last = moment if now - moment <= LATE else now


CAPACITY = 8_000  # about what fits into `SHARE`: a run that is pushed out must be read again
LOW = 500
READ = 2_000  # runs in one read, so that no tick of the event loop takes long

SCANNED = 2_000  # keys examined in one read
READ_ON = 200  # key queues in one read
_entries = count()
_REST = 0.05  # seconds to wait after a look through the keys that found no runs


class Source(msgspec.Struct, frozen=True):
    """What a lane needs to read from the store.

    `place` puts a held run into its lane or the scheduler. `clock` returns microseconds since 1970.
    """

    reader: Reader
    holding: Holding
    place: Callable[[Run], None]
    clock: Callable[[], int]


class Lane:
    """Waiting runs of one handler, highest priority first, then oldest first.

    `more`: the store may have due runs that are not in memory. `reading`: a read of them is running.
    `queued`: the lane is in the dispatcher's turn. `closed`: another lane replaced it.
    """

    ordered = False

    def __init__(self, handler: int, budget: Budget) -> None:
        self.handler = handler
        self.more = True
        self.reading = self.queued = self.closed = False
        self.pace = Pace()
        self.weight = 0
        self._budget = budget
        self._waiting: deque[tuple[int, int, int, Run, int]] = deque()  # the next one first

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def active(self) -> bool:
        """Whether it has a run that may start, or has to read from the store."""
        return bool(self._waiting) or self.wants

    @property
    def wants(self) -> bool:
        """Whether it has to read from the store now."""
        return self.more and not self.reading and self._is_low()

    def _is_low(self) -> bool:
        low = len(self._waiting) <= LOW
        return low and self.weight <= self._budget.allowed(self.weight) // 4

    def add(self, run: Run) -> list[Run]:
        """Add a run. Return the runs that no longer fit; they stay in the store only."""
        size, waiting, budget = weight(run), self._waiting, self._budget
        # A cancelled run may still be in the lane when it is retried: the third number makes entries unique.
        entry = (-run.priority, run.id, next(_entries), run, size)
        if waiting and entry < waiting[-1]:
            insort(waiting, entry)
        elif self.more and not self._is_low():
            return [run]  # the store may have runs that come before it, which must be read first
        else:
            waiting.append(entry)
        self.weight += size
        budget.used += size
        if len(waiting) <= CAPACITY and self.weight <= SHARE and budget.used <= TOTAL:
            return []
        return self._push_out()

    def _push_out(self) -> list[Run]:
        out: list[Run] = []
        while len(self._waiting) > 1 and (
            len(self._waiting) > CAPACITY or self.weight > self._budget.allowed(self.weight)
        ):
            out.append(self._let_go(self._waiting.pop()))
            self.more = True
        return out

    def _let_go(self, entry: tuple[int, int, int, Run, int]) -> Run:
        _, _, _, run, size = entry
        self.weight -= size
        self._budget.used -= size
        return run

    def peek(self) -> Run | None:
        """Return the next run."""
        return self._waiting[0][3] if self._waiting else None

    def pop(self, run: Run) -> None:  # noqa: ARG002 - an ordered lane needs the run's key
        """Remove the run that `peek` returned: its attempt was handed out, or it will not start."""
        size = self._waiting.popleft()[4]
        self.weight -= size
        self._budget.used -= size

    def free(self, run: Run) -> None:
        """Handle that a run's attempt has released its slot."""

    def wait(self, run: Run) -> list[Run]:  # noqa: ARG002 - only an ordered lane blocks later runs
        """Handle that a run waits for its next attempt. Return the runs that no longer fit."""
        return []

    def lift(self, id_: int) -> None:
        """Handle that a run no longer waits for its next attempt."""

    def rescan(self) -> list[Run]:
        """Read the store again, because it changed without a commit here. Return the runs no longer held."""
        self.more = True
        return []

    def close(self) -> list[Run]:
        """Release all runs, because another lane replaces this one. Return them."""
        self.closed = True
        out = [entry[3] for entry in self._waiting]
        self._waiting.clear()
        self._budget.used -= self.weight
        self.weight = 0
        return out

    async def read(self, source: Source) -> None:
        """Read runs from the store.

        Raises:
            Unavailable: the store cannot be read now.
        """
        self.more = False
        held, size = source.holding.of(self.handler)
        limit, max_bytes = READ + held, SHARE + size
        with source.holding.reading() as began:
            found = await source.reader.waiting(
                self.handler, limit, now=source.clock(), max_bytes=max_bytes, keyless=self.ordered
            )
            for run in () if self.closed else found:
                if source.holding.take_read(run, began):
                    source.place(run)
        if len(found) == limit or sum(len(run.event.data or b"") for run in found) >= max_bytes:
            self.more = True


class OrderedLane(Lane):
    """Waiting runs of an ordered handler: runs with a key in one queue for each key, the others as in `Lane`.

    Args:
        handler: the handler's number.
        budget: the bytes of all lanes.
        running: the keys that attempts of the handler hold.
    """

    ordered = True

    def __init__(self, handler: int, budget: Budget, running: Container[str]) -> None:
        super().__init__(handler, budget)
        self.order = Order(budget, running)

    @property
    def active(self) -> bool:
        """Whether it has a run that may start, or has to read from the store."""
        return bool(self._waiting) or self.order.head() is not None or self.wants

    @property
    def wants(self) -> bool:
        """Whether it has to read from the store now."""
        return super().wants or (self.order.wants and not self.reading)

    def add(self, run: Run) -> list[Run]:
        """Add a run. Return the runs that no longer fit; they stay in the store only."""
        if run.key is None:
            return super().add(run)
        self.order.add(run)
        return self._out()

    def _out(self) -> list[Run]:
        out, self.order.out = self.order.out, []
        return out

    def peek(self) -> Run | None:
        """Return the next run."""
        free, head = super().peek(), self.order.head()
        if free is None or head is None:
            return free or head
        return head if (head.priority, -head.id) > (free.priority, -free.id) else free

    def pop(self, run: Run) -> None:
        """Remove the run that `peek` returned: its attempt was handed out, or it will not start."""
        if run.key is None:
            super().pop(run)
        else:
            self.order.pop(run)

    def free(self, run: Run) -> None:
        """Handle that a run's attempt has released its slot."""
        if run.key is not None:
            self.order.free(run.key)

    def wait(self, run: Run) -> list[Run]:
        """Handle that a run waits for its next attempt. Return the runs that no longer fit."""
        if run.key is None:
            return []
        self.order.wait(run)
        return self._out()

    def lift(self, id_: int) -> None:
        """Handle that a run no longer waits for its next attempt."""
        self.order.lift(id_)

    def rescan(self) -> list[Run]:
        """Read the store again, because it changed without a commit here. Return the runs no longer held."""
        super().rescan()
        self.order.forget()
        return self._out()

    def close(self) -> list[Run]:
        """Release all runs, because another lane replaces this one. Return them."""
        self.order.forget()
        return super().close() + self._out()

    async def read(self, source: Source) -> None:
        """Read runs from the store.

        Raises:
            Unavailable: the store cannot be read now.
        """
        if self.more and self._is_low():
            await super().read(source)
        try:
            await self._read_on(source)
            if self.order.complete or not self.order.roomy:
                return
            fruitful = await self._scan_keys(source)
        finally:
            self.order.done()
        if not (fruitful or self.order.complete or self.order.wanted):
            await asyncio.sleep(_REST)

    async def _read_on(self, source: Source) -> None:
        """Read the key queues that ran empty or are not known yet."""
        await self._read_keys(source, list(islice(self.order.wanted, READ_ON)))

    async def _scan_keys(self, source: Source) -> bool:
        """Look for keys without a queue. Return whether this found runs."""
        order = self.order
        epoch = order.epoch
        keys = await source.reader.partition_keys(self.handler, order.cursor, SCANNED)
        if order.epoch != epoch:
            return False
        unknown = [key for key in keys if order.unknown(key)]
        found = await self._read_keys(source, unknown)
        if order.epoch != epoch:
            return False
        if len(found) < len(unknown):
            order.scanned_to(found[-1].key if found else order.cursor)
        else:
            order.scanned_to(keys[-1] if len(keys) == SCANNED else None)
        return any(key.runs for key in found)

    async def _read_keys(self, source: Source, keys: list[str]) -> list[KeyRuns]:
        if not keys:
            return []
        epoch = self.order.epoch
        self.order.begin(keys)
        with source.holding.reading() as began:
            depth = self.order.depth(len(keys))
            found = await source.reader.key_runs(self.handler, keys, source.clock(), depth, SHARE // 2)
            if self.order.epoch != epoch:
                return []
            for key in found:
                self._add_found(source, key, began)
        return found

    def _add_found(self, source: Source, found: KeyRuns, began: int) -> None:
        runs: list[Run] = []
        waits: list[Run] = []
        now = source.clock()
        for run in found.runs:
            if source.holding.is_stale(run.id, began):
                continue
            if run.due is not None and run.due > now:
                waits.append(run)
            elif source.holding.take(run):
                runs.append(run)
            elif run.attempt and source.holding.has(run.id):
                waits.append(run)  # it has just become due, and the scheduler has not placed it yet
        self.order.add_found(found, runs, waits)
        for run in self._out():
            source.holding.leave(run)
