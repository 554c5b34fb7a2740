"""How long the newest attempts of each handler took, kept in memory."""

from __future__ import annotations

from collections import deque

from app.workers.base import Ended

WINDOW = 256


class Latencies:
    """Wall times of the last attempts by handler number, in seconds."""

    def __init__(self) -> None:
        self._recent: dict[int, deque[float]] = {}

    def note(self, handler: int, ended: Ended) -> None:
        """Take an attempt that ended in its worker."""
        recent = self._recent.get(handler)
        if recent is None:
            recent = self._recent[handler] = deque(maxlen=WINDOW)
        recent.append(ended.wall_time)

    def of(self, handler: int) -> dict[str, float | int | None]:
        """Return the median and the 95th percentile in seconds, None before the first attempt."""
        recent = sorted(self._recent.get(handler, ()))
        if not recent:
            return {"p50": None, "p95": None, "attempts": 0}
        return {
            "p50": recent[len(recent) // 2],
            "p95": recent[len(recent) * 95 // 100],
            "attempts": len(recent),
        }
