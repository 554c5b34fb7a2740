"""How fast a handler's attempts are: only quick ones may queue behind one another in a worker."""

from __future__ import annotations

from collections import deque

QUICK = 0.0003  # seconds
_WINDOW = 100
_ENOUGH = 20


class Pace:
    """The last attempts of one handler; knows whether 95 of 100 took less than `QUICK`."""

    __slots__ = ("_attempts", "_slow", "quick")

    def __init__(self) -> None:
        self._attempts = 0
        self._slow: deque[int] = deque()  # the numbers of those in the window that were not quick
        self.quick = False

    def add(self, wall: float) -> None:
        """Take in how long an attempt took, in seconds."""
        self._attempts = number = self._attempts + 1
        slow = self._slow
        if wall >= QUICK:
            slow.append(number)
        if slow and slow[0] <= number - _WINDOW:
            slow.popleft()
        self.quick = number >= _ENOUGH and (not slow or len(slow) * 20 < min(number, _WINDOW))
