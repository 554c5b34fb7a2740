"""How long a handler's attempts take.

A *quick* attempt takes less than `QUICK`. Only quick attempts may queue in a worker. Attempts that take less
than `INSTANT` on average are *instant*. They are not spread over workers and threads, because waking
another one takes longer than they do.
"""

from __future__ import annotations

from collections import deque

QUICK = 0.0003  # seconds
INSTANT = 0.000025  # seconds, on average
_UNKNOWN = QUICK / 6  # seconds: the assumed duration before the first attempt
_STALL = 0.005  # seconds: longer attempts count as this in a mean
_LAST = 512  # attempts in a mean
_WINDOW = 100
_ENOUGH = 20


class Pace:
    """The recent attempts of one handler. `quick`: more than 95 of the last 100 took less than `QUICK`.

    `handler`: its name. `mean`: of the durations, in seconds.
    """

    __slots__ = ("_attempts", "_slow", "handler", "mean", "quick")

    def __init__(self, handler: str) -> None:
        self.handler = handler
        self._attempts = 0
        self._slow: deque[int] = deque()  # the numbers of the slow attempts in the window
        self.quick = False
        self.mean = _UNKNOWN

    def extend(self, walls: list[float]) -> None:
        """Add durations of successive attempts in seconds, at least one."""
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


class QuickDuration:
    """Durations of one handler's quick attempts in one worker, in seconds.

    `mean`: of the recent ones. `least`: without waiting for the GIL, which other attempts may hold.
    """

    __slots__ = ("least", "mean")

    def __init__(self) -> None:
        self.mean = self.least = _UNKNOWN

    def add(self, wall: float) -> None:
        """Add the duration of an attempt in seconds."""
        self.mean += (min(wall, _STALL) - self.mean) / _LAST
        more = min(wall, QUICK) - self.least
        self.least += more / 64 if more > 0 else more
