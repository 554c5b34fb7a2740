"""The runs that dispatch holds in memory, so that reading the store again never starts a run twice.

A read of the store is already out of date when its rows arrive. A run that it returns as waiting may be
held already, may have an attempt in flight, or may have ended since. All three are rejected here. Ends are
numbered, and each read knows the number at which it began. So a run that ended and waits again is rejected
by the reads that began before its end, and only by those, even if reads overlap.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from busway.domain.run import Run
from busway.gateway.attempts.inflight import Attempt

TOTAL = 64 << 20  # bytes for all lanes together
SHARE = 8 << 20  # bytes for one lane at most
LEAST = 256 << 10  # bytes for one lane at least, so that full lanes do not starve it
OVERHEAD = 1_000  # bytes that a run and its event take besides the event's data


def weight(run: Run) -> int:
    """Return approximately how many bytes a run takes."""
    data = run.event.data
    return OVERHEAD + len(data) if data else OVERHEAD


class Budget:
    """The bytes that all lanes together use."""

    def __init__(self) -> None:
        self.used = 0

    def allowed(self, own: int) -> int:
        """Return how many bytes a lane that uses `own` bytes may use in total."""
        return max(LEAST, min(SHARE, TOTAL - self.used + own))


class Holding:
    """The runs that wait in memory, by id, and the ids that ended while a read was running.

    Args:
        attempted: the attempts in flight, by run.
    """

    def __init__(self, attempted: Mapping[int, Attempt]) -> None:
        self._runs: dict[int, Run] = {}
        self._attempted = attempted
        self._ended: dict[int, int] = {}
        self._ends = 0
        self._reads: list[int] = []  # the numbers at which the running reads began, oldest first

    def take(self, run: Run) -> bool:
        """Hold a run from a commit. Return False if it is already held or has an attempt in flight."""
        if run.id in self._runs or run.id in self._attempted:
            return False
        self._runs[run.id] = run
        return True

    def take_read(self, run: Run, began: int) -> bool:
        """Hold a run from a read. Return False as `take` does, or if the read is out of date for it."""
        return not self.is_stale(run.id, began) and self.take(run)

    def is_stale(self, id_: int, began: int) -> bool:
        """Return whether a run ended after a read began, so that the read's row of it is out of date."""
        return self._ended.get(id_, -1) >= began

    def holds(self, run: Run) -> bool:
        """Return whether this very object is still held."""
        return self._runs.get(run.id) is run

    def has(self, id_: int) -> bool:
        """Return whether a run with this id is held."""
        return id_ in self._runs

    def of(self, handler: int) -> tuple[int, int]:
        """Return the number and bytes of a handler's runs that a read may return but cannot add."""
        known = [*self._runs.values(), *(attempt.run for attempt in self._attempted.values())]
        weights = [weight(run) for run in known if run.handler == handler]
        return len(weights), sum(weights)

    def leave(self, run: Run) -> None:
        """Release a run: its attempt is in flight, or it stays in the store, where a later read finds it."""
        self._runs.pop(run.id, None)

    def exchange(self, run: Run, changed: Run) -> None:
        """Replace a held run by a changed copy. Do nothing if it is not held."""
        if self._runs.get(run.id) is run:
            self._runs[run.id] = changed

    def end(self, id_: int) -> Run | None:
        """Record that a run's attempt ended or that the run was cancelled. Return the run if it was held."""
        if self._reads:
            self._ended.pop(id_, None)  # keeps the newest end last
            self._ended[id_] = self._ends
            self._ends += 1
        return self._runs.pop(id_, None)

    @contextmanager
    def reading(self) -> Iterator[int]:
        """Enclose a read of the store and the adding of its rows. Yields the number at its begin."""
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
