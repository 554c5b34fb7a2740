"""New runs that came too early: other nodes made older commits that this one does not know yet.

A node knows its own commits at once, those of other nodes a moment later. The runs of a key can be ordered
only if all commits are known in the order of their numbers.
"""

from __future__ import annotations

from busway.domain.run import Run
from busway.gateway.dispatch.registry import Registry


class EarlyRuns:
    """Runs that wait until all older commits are known. Reading the store again makes them known, too.

    Args:
        registry: the handlers.

    Attributes:
        runs: each with the number of its commit, by id.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.runs: dict[int, tuple[int, Run]] = {}
        self._known = self._newest = 0  # all commits up to the first one are known
        self._ahead: set[int] = set()  # known ones behind it
        self._oldest: int | None = None  # the run that had waited longest at the last look

    def know(self, number: int) -> bool:
        """Record that a commit is known, and return whether all older ones are."""
        self._newest = max(self._newest, number)
        if self._known and number > self._known + 1:
            self._ahead.add(number)
            return False
        self._known = max(self._known, number)
        while self._known + 1 in self._ahead:
            self._known += 1
            self._ahead.discard(self._known)
        return True

    def hold(self, run: Run, number: int) -> bool:
        """Keep a new run of this commit. Return False if it has no place in an order."""
        entry = self._registry.entry(run.handler)
        if run.attempt or run.key is None or entry is None or not entry.spec.ordered:
            return False
        self.runs[run.id] = number, run
        return True

    def know_all(self) -> None:
        """Record that all commits before the newest known one are known: the store is read again."""
        self._known = self._newest
        self._ahead.clear()

    def ready(self) -> list[Run]:
        """Return, and forget, the runs that need not wait any more."""
        if not self.runs:
            return []
        ready = [run for number, run in self.runs.values() if number <= self._known]
        for run in ready:
            del self.runs[run.id]
        return ready

    def is_stuck(self) -> bool:
        """Return whether a run has waited since the last call."""
        before, self._oldest = self._oldest, next(iter(self.runs), None)
        return self._oldest is not None and self._oldest == before
