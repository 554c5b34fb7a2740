"""The runs that dispatch holds, so that reading the store again never starts one twice.

A read of the store shows a moment that is past when its rows arrive. A run that it shows as waiting
may be held already, or may have ended since; both are turned away here. Ends are numbered, and each
read knows the number at which it began: so a run that ended and waits again is turned away by reads
that are older than its end, and by no later one, however reads overlap. A run that is being attempted is
turned away too, as the attempts in flight know it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from busway.domain.run import Run
from busway.gateway.attempts.inflight import Attempt

TOTAL = 64 << 20  # bytes for all lanes together
SHARE = 8 << 20  # bytes for one lane at most
LEAST = 256 << 10  # bytes for one lane at least, so that none is starved by others that are full
OVERHEAD = 1_000  # bytes that a run and its event take beside the event's data


def weight(run: Run) -> int:
    """Return about how many bytes a run takes."""
    data = run.event.data
    return OVERHEAD + len(data) if data else OVERHEAD


class Budget:
    """The bytes that all lanes together have taken."""

    def __init__(self) -> None:
        self.used = 0

    def allowed(self, own: int) -> int:
        """Return how many bytes a lane may take that has taken `own` already."""
        return max(LEAST, min(SHARE, TOTAL - self.used + own))


class Holding:
    """The runs that wait in memory, by id, and the ids that ended while a read was under way.

    Args:
        attempted: the attempts in flight, by run.
    """

    def __init__(self, attempted: Mapping[int, Attempt]) -> None:
        self._runs: dict[int, Run] = {}
        self._attempted = attempted
        self._ended: dict[int, int] = {}
        self._ends = 0
        self._reads: list[int] = []  # the numbers at which the reads under way began, oldest first

    def take(self, run: Run) -> bool:
        """Hold a run that a commit told of; False if it is held already, or being attempted."""
        if run.id in self._runs or run.id in self._attempted:
            return False
        self._runs[run.id] = run
        return True

    def take_read(self, run: Run, began: int) -> bool:
        """Hold a run that a read found; False if it is held, being attempted, or the read is out of date."""
        return not self.is_stale(run.id, began) and self.take(run)

    def is_stale(self, id_: int, began: int) -> bool:
        """Tell whether a run ended after a read began, so that what the read says of it is past."""
        return self._ended.get(id_, -1) >= began

    def holds(self, run: Run) -> bool:
        """Tell whether this very run is still held."""
        return self._runs.get(run.id) is run

    def has(self, id_: int) -> bool:
        """Tell whether a run is held, as whatever value."""
        return id_ in self._runs

    def of(self, handler: int) -> tuple[int, int]:
        """Count the runs of a handler that a read may find and cannot add, and their bytes."""
        known = [*self._runs.values(), *(attempt.run for attempt in self._attempted.values())]
        weights = [weight(run) for run in known if run.handler == handler]
        return len(weights), sum(weights)

    def leave(self, run: Run) -> None:
        """Hold a run no more: it is being attempted, or stays in the store, where a later read finds it."""
        self._runs.pop(run.id, None)

    def exchange(self, run: Run, changed: Run) -> None:
        """Hold another value of a run, if that one is held."""
        if self._runs.get(run.id) is run:
            self._runs[run.id] = changed

    def end(self, id_: int) -> Run | None:
        """Take note that a run's attempt is over or that it was cancelled; return it if it was held."""
        if self._reads:
            self._ended.pop(id_, None)  # the newest end stands last
            self._ended[id_] = self._ends
            self._ends += 1
        return self._runs.pop(id_, None)

    @contextmanager
    def reading(self) -> Iterator[int]:
        """Surround a read of the store and the taking of what it found; gives the number it began at."""
        began = self._ends
        self._reads.append(began)
        try:
            yield began
        finally:
            self._reads.remove(began)
            self._forget()

    def _forget(self) -> None:
        oldest = self._reads[0] if self._reads else self._ends
        for id_, number in list(self._ended.items()):
            if number >= oldest:
                break
            del self._ended[id_]
