"""The runs that dispatch holds, so that reading the store again never starts one twice.

A read of the store shows a moment that is past when its rows arrive. A run that it shows as waiting
may be held already, or may have ended since; both are turned away here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from app.domain.run import Run


class Holding:
    """Runs by id, and the ids that ended while a read was under way."""

    def __init__(self) -> None:
        self._runs: dict[int, Run] = {}
        self._ended: set[int] = set()
        self._reads = 0

    def take(self, run: Run) -> bool:
        """Hold a run; False if it is held already, or ended since the read that found it began."""
        if run.id in self._runs or run.id in self._ended:
            return False
        self._runs[run.id] = run
        return True

    def holds(self, run: Run) -> bool:
        """Tell whether this very run is still held."""
        return self._runs.get(run.id) is run

    def of(self, handler: int) -> int:
        """Count the runs of a handler that are held."""
        return sum(1 for run in self._runs.values() if run.handler == handler)

    def leave(self, run: Run) -> None:
        """Hold a waiting run no more: it stays in the store, where a later read finds it."""
        self._runs.pop(run.id, None)

    def end(self, id_: int) -> Run | None:
        """Hold a run no more because its attempt is over or it was cancelled."""
        if self._reads:
            self._ended.add(id_)
        return self._runs.pop(id_, None)

    def again(self, id_: int) -> None:
        """Admit an id that ended and waits again, by the word of the same commit."""
        self._ended.discard(id_)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Surround a read of the store and the taking of what it found."""
        self._reads += 1
        try:
            yield
        finally:
            self._reads -= 1
            if not self._reads:
                self._ended.clear()
