"""How many events, results and failures came in the last ten minutes. Kept in memory only."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import msgspec

from busway.domain.run import Outcome
from busway.domain.times import SECOND
from busway.gateway.attempts.statistics import Durations
from busway.gateway.store.port.reader import Reader

KEPT = 600 * SECOND
EVERY = 4 * SECOND
_FAILURES = (Outcome.FAILED, Outcome.LOST)


class Sample(msgspec.Struct, frozen=True, gc=False):
    """The counts of the `seconds` before `time`, which is in microseconds since 1970."""

    time: int
    seconds: float
    events: int
    results: int
    failures: int


class Rates:
    """Takes a sample every few seconds, from totals that exist anyway. Nothing is counted per event.

    Args:
        reader: has the totals of events and results of all nodes.
        durations: the attempts of this node.
        clock: microseconds since 1970.

    Attributes:
        samples: the oldest first.
    """

    def __init__(self, reader: Reader, durations: Durations, clock: Callable[[], int]) -> None:
        self._reader, self._durations, self._clock = reader, durations, clock
        self.samples: deque[Sample] = deque()
        self._before: tuple[int, int, int, int] | None = None

    async def look(self) -> None:
        """Take a sample if it is time. Call it every few seconds."""
        now, before = self._clock(), self._before
        if before is not None and 0 <= now - before[0] < EVERY - SECOND // 2:
            return
        events, results = await self._reader.totals()
        failures = sum(
            sum(histogram.counts)
            for (_, _, outcome), histogram in self._durations.attempts().items()
            if outcome in _FAILURES
        )
        self._before = now, events, results, failures
        if before is None or now <= before[0]:
            return
        then, *counts = before
        found = (max(0, new - old) for new, old in zip((events, results, failures), counts, strict=True))
        self.samples.append(Sample(now, (now - then) / SECOND, *found))
        while self.samples[0].time < now - KEPT:
            self.samples.popleft()
