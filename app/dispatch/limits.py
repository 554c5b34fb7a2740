"""How fast a handler's runs may start: one every so often, spread, however many wait."""

from __future__ import annotations

from functools import lru_cache

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
