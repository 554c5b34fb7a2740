"""New runs that came too early: other nodes made older commits that this one does not know yet.

A node knows its own commits at once, those of other nodes a moment later. The runs of a key can be ordered
only if all commits are known in the order of their numbers.
"""

from __future__ import annotations

from busway.domain.run import Run
from busway.gateway.dispatch.holding import SHARE, weight
from busway.gateway.dispatch.registry import Registry
from busway.gateway.store.port.commits import Committed


class EarlyRuns:
    """New runs that wait until all older commits are known.

    Args:
        registry: the handlers.

    Attributes:
        runs: each with the number of its commit, by id. Usually there are none.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self.runs: dict[int, tuple[int, Run]] = {}
        self._weight = 0
        self._known = self._newest = 0  # all commits up to the first number are known
        self._later: set[int] = set()  # known commits after the first unknown one
        self._oldest: int | None = None  # the run that had waited longest at the last look

    @property
    def full(self) -> bool:
        """Whether the runs take too much memory."""
        return self._weight > SHARE

    def know(self, change: Committed) -> bool:
        """Record that a commit is known, and return whether all older ones are."""
        number = change.number
        self._newest = max(self._newest, number)
        if change.rescan:
            self.clear()
        elif self._known and number > self._known + 1:
            self._later.add(number)
            return False
        self._known = max(self._known, number)
        while self._known + 1 in self._later:
            self._known += 1
            self._later.discard(self._known)
        return True

    def clear(self) -> None:
        """Forget the runs, and what is not known: the store, which has all of it, is read again."""
        self._known = self._newest
        self._later.clear()
        self.runs.clear()
        self._weight = 0

    def hold(self, run: Run, number: int) -> bool:
        """Keep a new run of this commit. Return False if it has no place in an order."""
        entry = self._registry.entry(run.handler)
        if run.attempt or run.key is None or entry is None or not entry.spec.ordered:
            return False
        self.runs[run.id] = number, run
        self._weight += weight(run)
        return True

    def end(self, id_: int) -> None:
        """Forget a run: it has ended, or does not wait any more."""
        if id_ in self.runs:
            self._weight -= weight(self.runs.pop(id_)[1])

    def ready(self) -> list[Run]:
        """Return, and forget, the runs that need not wait any more."""
        ready = [run for number, run in self.runs.values() if number <= self._known]
        for run in ready:
            self.end(run.id)
        return ready

    def is_stuck(self) -> bool:
        """Return whether a run has waited since the last call."""
        before, self._oldest = self._oldest, next(iter(self.runs), None)
        return self._oldest is not None and self._oldest == before
