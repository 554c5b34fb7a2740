"""Whether the memory of a worker grows over its attempts."""

from __future__ import annotations

from busway.gateway.executors.python.wire.memory import resident

_WORTH_A_LOOK = 0.001  # seconds: after a shorter attempt, measuring would cost too much
_QUICK_ONES = 256  # shorter attempts between two measurements
_BUSY_EVERY = 1_000_000_000  # nanoseconds between two measurements of a worker that is never idle
_WINDOW = 10  # measurements of a worker that is never idle, of which the lowest counts


class Growth:
    """How much a worker has grown since its start.

    Memory present after a handler's first attempt, such as a model that it loads once, counts as the start,
    because a replacement would soon need the same. So does memory that was allocated and freed.

    Args:
        bound: growth in bytes that is too much.

    Attributes:
        known: the handlers that have had an attempt here.
    """

    __slots__ = ("_bound", "_news", "_recent", "_start", "known")

    def __init__(self, bound: int) -> None:
        self._bound = bound
        self.known: set[str] = set()
        self._news = True
        self._start = 0
        self._recent: list[int] = []

    def first(self, handler: str) -> None:
        """Record a handler's first attempt. The next measurement sets the start."""
        self.known.add(handler)
        self._news = True

    def idle(self, held: int) -> bool:
        """Add a measurement between attempts. Return True if the worker has grown too much."""
        self._recent.clear()
        if self._news:
            self._start, self._news = max(held, self._start), False
        return max(0, held - self._start) >= self._bound

    def busy(self, held: int) -> bool:
        """Add a measurement of a worker that is never idle. Return True if it has been too large for long."""
        self._recent.append(held)
        return len(self._recent) >= _WINDOW and self.idle(min(self._recent))


class GrowthMonitor:
    """Decides when a worker's memory is measured, so that it costs almost nothing.

    Args:
        bound: as for `Growth`.
    """

    __slots__ = ("_answers", "_growth", "_idle_at", "_next_busy", "_seen")

    def __init__(self, bound: int) -> None:
        self._growth = Growth(bound)
        self._answers = self._seen = 0
        self._idle_at = 0
        self._next_busy = 0

    def answered(self, handler: str, walls: list[float]) -> None:
        """Record the durations of finished attempts of a handler, in seconds."""
        self._answers += len(walls)
        growth = self._growth
        if max(walls) >= _WORTH_A_LOOK:
            self._idle_at = self._answers
        if handler not in growth.known:
            growth.first(handler)
            self._idle_at = self._answers

    def idle(self, pid: int | None) -> bool:
        """Measure a worker without attempts, if due. Return True if it has grown too much."""
        if self._answers < self._idle_at:
            return False
        held = self._look(pid)
        return held is not None and self._growth.idle(held)

    def busy(self, pid: int | None, now: int) -> bool:
        """Measure a worker with attempts, if due. `now` in monotonic nanoseconds."""
        if now < self._next_busy or self._answers == self._seen:
            return False
        self._next_busy = now + _BUSY_EVERY
        held = self._look(pid)
        return held is not None and self._growth.busy(held)

    def _look(self, pid: int | None) -> int | None:
        self._seen = self._answers
        self._idle_at = self._answers + _QUICK_ONES
        return resident(pid)
