"""The waiting runs of one handler that are held in memory: the first of them, never all.

A lane holds at most `CAPACITY` runs and its share of the bytes; what is behind them stays in the
store and is read when the lane runs low, so that a million waiting runs cost no more memory than a
thousand.
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
from busway.gateway.store.port.reader import KeyLine, Reader

_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
LATE = 0.02  # seconds by which a start may miss its moment without the next moments moving too


@lru_cache(maxsize=1024)
def interval(rate: str) -> float:
    """Return the seconds between two starts of a rate such as `100/s`."""
    count, _, unit = rate.partition("/")
    return _UNITS[unit] / int(count)


class Pace:
    """The moments at which runs may start: a leaky bucket that holds one.

    Moments are an interval apart. A start that comes a little late (a timer, a worker that was busy)
    does not move those behind it, or the rate would never be reached; after a longer pause they
    begin anew with now, so nothing is saved up. In any window of W seconds there are at most
    (W + LATE) / interval + 1 starts. Times are seconds of a monotonic clock.
    """

    def __init__(self) -> None:
        self._last = float("-inf")

    def wait(self, rate: str, now: float) -> float:
        """Return how many seconds it is until the next start; not over 0: it may be now."""
        return self._last + interval(rate) - now

    def start(self, rate: str, now: float) -> None:
        """Take note of a start."""
        moment = self._last + interval(rate)
        self._last = moment if now - moment <= LATE else now


CAPACITY = 8_000  # about what `SHARE` holds: a run that is pushed out has to be read again
LOW = 500
READ = 2_000  # runs read on at once, so that no turn of the loop lasts

SCANNED = 2_000  # keys looked at in one read
READ_ON = 200  # lines read on at once
_entries = count()
_REST = 0.05  # seconds after a look at keys that brought nothing


class Source(msgspec.Struct, frozen=True):
    """Where lanes read on from, and who else takes part.

    `place` puts a held run where it belongs; `clock` gives microseconds since 1970.
    """

    reader: Reader
    holding: Holding
    place: Callable[[Run], None]
    clock: Callable[[], int]


class Lane:
    """Waiting runs of one handler, highest priority first, then oldest.

    `more`: the store may have runs that are due and not here. `reading`: a read of them is under
    way. `queued`: the lane takes its turns. `closed`: another lane took its place.
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
        """Whether it has a run that may start, as far as it knows, or is to read."""
        return bool(self._waiting) or self.wants

    @property
    def wants(self) -> bool:
        """Whether it is time to read on from the store."""
        return self.more and not self.reading and self._is_low()

    def _is_low(self) -> bool:
        low = len(self._waiting) <= LOW
        return low and self.weight <= self._budget.allowed(self.weight) // 4

    def add(self, run: Run) -> list[Run]:
        """Take a run in; return those that no longer fit, which stay in the store alone."""
        size, waiting, budget = weight(run), self._waiting, self._budget
        # A run that was cancelled may still stand here when it is retried: the third number tells them apart.
        entry = (-run.priority, run.id, next(_entries), run, size)
        if waiting and entry < waiting[-1]:
            insort(waiting, entry)
        elif self.more and not self._is_low():
            return [run]  # better ones may be in the store: until they are read none may stand before them
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

    def pop(self, run: Run) -> None:  # noqa: ARG002 - an ordered lane asks in which line it stands
        """Take out the next run, as `peek` gave it: it was handed out just now, or will not start."""
        size = self._waiting.popleft()[4]
        self.weight -= size
        self._budget.used -= size

    def free(self, run: Run) -> None:
        """Take note that a run's attempt has given its place back."""

    def wait(self, run: Run) -> list[Run]:  # noqa: ARG002 - only an ordered lane keeps others behind it
        """Take note that a run waits for its next attempt; return what no longer fits."""
        return []

    def lift(self, id_: int) -> None:
        """Take note that a run no longer waits for its next attempt."""

    def rescan(self) -> list[Run]:
        """Read the store again, for it changed unseen; return what is held no more."""
        self.more = True
        return []

    def close(self) -> list[Run]:
        """Hold nothing any more: another lane takes its place."""
        self.closed = True
        out = [entry[3] for entry in self._waiting]
        self._waiting.clear()
        self._budget.used -= self.weight
        self.weight = 0
        return out

    async def read(self, source: Source) -> None:
        """Read on from the store.

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
    """Waiting runs of an ordered handler: those with a key in their lines, the others as in any lane.

    Args:
        handler: its number.
        budget: of all lanes.
        running: the keys that attempts of the handler hold.
    """

    ordered = True

    def __init__(self, handler: int, budget: Budget, running: Container[str]) -> None:
        super().__init__(handler, budget)
        self.order = Order(budget, running)

    @property
    def active(self) -> bool:
        """Whether it has a run that may start, as far as it knows, or is to read."""
        return bool(self._waiting) or self.order.head() is not None or self.wants

    @property
    def wants(self) -> bool:
        """Whether it is time to read on from the store."""
        return super().wants or (self.order.wants and not self.reading)

    def add(self, run: Run) -> list[Run]:
        """Take a run in; return those that no longer fit, which stay in the store alone."""
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
        """Take out the next run, as `peek` gave it: it was handed out just now, or will not start."""
        if run.key is None:
            super().pop(run)
        else:
            self.order.pop(run)

    def free(self, run: Run) -> None:
        """Take note that a run's attempt has given its place back."""
        if run.key is not None:
            self.order.free(run.key)

    def wait(self, run: Run) -> list[Run]:
        """Take note that a run waits for its next attempt; return what no longer fits."""
        if run.key is None:
            return []
        self.order.wait(run)
        return self._out()

    def lift(self, id_: int) -> None:
        """Take note that a run no longer waits for its next attempt."""
        self.order.lift(id_)

    def rescan(self) -> list[Run]:
        """Read the store again, for it changed unseen; return what is held no more."""
        super().rescan()
        self.order.forget()
        return self._out()

    def close(self) -> list[Run]:
        """Hold nothing any more: another lane takes its place."""
        self.order.forget()
        return super().close() + self._out()

    async def read(self, source: Source) -> None:
        """Read on from the store.

        Raises:
            Unavailable: the store cannot be read now.
        """
        if self.more and self._is_low():
            await super().read(source)
        try:
            await self._read_on(source)
            if self.order.complete or not self.order.roomy:
                return
            fruitful = await self._look_through(source)
        finally:
            self.order.done()
        if not (fruitful or self.order.complete or self.order.wanted):
            await asyncio.sleep(_REST)

    async def _read_on(self, source: Source) -> None:
        """Read lines that ran dry or are not known yet."""
        await self._read_lines(source, list(islice(self.order.wanted, READ_ON)))

    async def _look_through(self, source: Source) -> bool:
        """Look for keys that have no line; tell whether that brought runs."""
        order = self.order
        epoch = order.epoch
        keys = await source.reader.partition_keys(self.handler, order.cursor, SCANNED)
        if order.epoch != epoch:
            return False
        unknown = [key for key in keys if order.unknown(key)]
        found = await self._read_lines(source, unknown)
        if order.epoch != epoch:
            return False
        if len(found) < len(unknown):
            order.looked_through(found[-1].key if found else order.cursor)
        else:
            order.looked_through(keys[-1] if len(keys) == SCANNED else None)
        return any(line.runs for line in found)

    async def _read_lines(self, source: Source, keys: list[str]) -> list[KeyLine]:
        if not keys:
            return []
        epoch = self.order.epoch
        self.order.begin(keys)
        with source.holding.reading() as began:
            depth = self.order.depth(len(keys))
            found = await source.reader.lines(self.handler, keys, source.clock(), depth, SHARE // 2)
            if self.order.epoch != epoch:
                return []
            for line in found:
                self._see(source, line, began)
        return found

    def _see(self, source: Source, line: KeyLine, began: int) -> None:
        runs: list[Run] = []
        waits: list[Run] = []
        now = source.clock()
        for run in line.runs:
            if source.holding.is_stale(run.id, began):
                continue
            if run.due is not None and run.due > now:
                waits.append(run)
            elif source.holding.take(run):
                runs.append(run)
            elif run.attempt and source.holding.has(run.id):
                waits.append(run)  # its time has just come, and the scheduler has not seen it yet
        self.order.see(line, runs, waits)
        for run in self._out():
            source.holding.leave(run)
