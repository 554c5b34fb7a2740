"""How long attempts took and how long runs waited, since the gateway started. Kept in memory only."""

from __future__ import annotations

from collections import defaultdict, deque
from functools import partial

from busway.domain.histogram import Histogram
from busway.domain.times import SECOND
from busway.gateway.attempts.inflight import Attempt
from busway.gateway.executors.port import Ended

_WINDOW = 256
_AT_ONCE = 256  # attempts added to the histograms in one batch: one by one they cost three times as much
_Labels = tuple[str, str, str]


class Durations:
    """Histograms in seconds, and the most recent durations of each handler."""

    def __init__(self) -> None:
        self._attempts: defaultdict[_Labels, Histogram] = defaultdict(Histogram)
        self._waits: defaultdict[str, Histogram] = defaultdict(Histogram)
        self._new: defaultdict[_Labels, list[tuple[float, int]]] = defaultdict(list)
        self._newest: defaultdict[int, deque[float]] = defaultdict(partial(deque, maxlen=_WINDOW))

    def take(self, ended: list[tuple[Attempt, Ended]]) -> None:
        """Count attempts that ended in their workers."""
        for attempt, report in ended:
            run, wall = attempt.run, report.wall_time
            self._newest[run.handler].append(wall)
            labels = attempt.handler, attempt.pool, report.outcome
            new = self._new[labels]
            new.append((wall, report.started_at - run.since))
            if len(new) >= _AT_ONCE:
                self._count(labels, new)

    def attempts(self) -> dict[_Labels, Histogram]:
        """Return the histograms of attempt durations by handler, pool and outcome."""
        self._count_all()
        return self._attempts

    def waits(self) -> dict[str, Histogram]:
        """Return the histograms of the time from due to started, by handler."""
        self._count_all()
        return self._waits

    def newest(self, handler: int) -> dict[str, float | int | None]:
        """Return median and 95th percentile of a handler's recent attempts in seconds, None without any."""
        newest = sorted(self._newest.get(handler, ()))
        if not newest:
            return {"p50": None, "p95": None, "attempts": 0}
        return {
            "p50": newest[len(newest) // 2],
            "p95": newest[len(newest) * 95 // 100],
            "attempts": len(newest),
        }

    def _count_all(self) -> None:
        for labels, new in self._new.items():
            self._count(labels, new)

    def _count(self, labels: _Labels, new: list[tuple[float, int]]) -> None:
        self._attempts[labels].extend([wall for wall, _ in new])
        self._waits[labels[0]].extend([max(0, wait) / SECOND for _, wait in new])
        new.clear()
