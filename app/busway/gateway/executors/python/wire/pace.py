"""How fast a handler's attempts are.

Only quick ones may queue behind one another in a worker. What takes a moment is not spread over workers
and threads: to wake one more costs more than it takes.
"""

from __future__ import annotations

from collections import deque

QUICK = 0.0003  # seconds
MOMENT = 0.000025  # seconds, on average
_UNKNOWN = QUICK / 6  # seconds that an attempt is taken to last before any was made
_STALL = 0.005  # seconds: what takes longer counts for no more in a mean
_LAST = 512  # attempts that make a mean
_WINDOW = 100
_ENOUGH = 20


class Pace:
    """The last attempts of one handler; knows whether 95 of 100 took less than `QUICK`.

    `handler`: its name. `mean`: of what they took, in seconds.
    """

    __slots__ = ("_attempts", "_slow", "handler", "mean", "quick")

    def __init__(self, handler: str) -> None:
        self.handler = handler
        self._attempts = 0
        self._slow: deque[int] = deque()  # the numbers of those in the window that were not quick
        self.quick = False
        self.mean = _UNKNOWN

    def extend(self, walls: list[float]) -> None:
        """Take in how long attempts took that ended one after the other, in seconds; not none."""
        if self._slow or max(walls) >= QUICK:
            for wall in walls:
                self._add(wall)
            return
        self._attempts += len(walls)
        self.mean += (sum(walls) - len(walls) * self.mean) / max(_LAST, len(walls))
        self.quick = self._attempts >= _ENOUGH

    def _add(self, wall: float) -> None:
        self._attempts = number = self._attempts + 1
        slow = self._slow
        self.mean += (min(wall, _STALL) - self.mean) / _LAST
        if wall >= QUICK:
            slow.append(number)
        if slow and slow[0] <= number - _WINDOW:
            slow.popleft()
        self.quick = number >= _ENOUGH and len(slow) * 20 < min(number, _WINDOW)


class Lasting:
    """How long one handler's quick attempts last in a worker, in seconds.

    `mean`: of the last ones. `least`: when nothing holds them up; others may have waited for the interpreter.
    """

    __slots__ = ("least", "mean")

    def __init__(self) -> None:
        self.mean = self.least = _UNKNOWN

    def add(self, wall: float) -> None:
        """Take in how long an attempt took, in seconds."""
        self.mean += (min(wall, _STALL) - self.mean) / _LAST
        more = min(wall, QUICK) - self.least
        self.least += more / 64 if more > 0 else more
