"""How fast a handler's attempts are: only quick ones may queue behind one another in a worker."""

from __future__ import annotations

from collections import deque

QUICK = 0.0003  # seconds
_WINDOW = 100
_ENOUGH = 20


class Pace:
    """The last attempts of one handler; knows whether 95 of 100 took less than `QUICK`."""

    __slots__ = ("_slow", "_window", "quick")

    def __init__(self) -> None:
        self._window: deque[bool] = deque()
        self._slow = 0
        self.quick = False

    def add(self, wall: float) -> None:
        """Take in how long an attempt took, in seconds."""
        slow = wall >= QUICK
        window = self._window
        window.append(slow)
        self._slow += slow
        if len(window) > _WINDOW:
            self._slow -= window.popleft()
        self.quick = len(window) >= _ENOUGH and self._slow * 20 < len(window)
