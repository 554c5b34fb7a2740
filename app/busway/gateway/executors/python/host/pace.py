"""How long a handler's attempts take, as the gateway measures it."""

from __future__ import annotations

from collections import deque

from busway.gateway.executors.python.wire.pace import LAST, QUICK, STALL, UNKNOWN

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
        self.mean = UNKNOWN

    def extend(self, walls: list[float]) -> None:
        """Add durations of successive attempts in seconds, at least one."""
        if self._slow or max(walls) >= QUICK:
            for wall in walls:
                self._add(wall)
            return
        self._attempts += len(walls)
        self.mean += (sum(walls) - len(walls) * self.mean) / max(LAST, len(walls))
        self.quick = self._attempts >= _ENOUGH

    def _add(self, wall: float) -> None:
        self._attempts = number = self._attempts + 1
        slow = self._slow
        self.mean += (min(wall, STALL) - self.mean) / LAST
        if wall >= QUICK:
            slow.append(number)
        if slow and slow[0] <= number - _WINDOW:
            slow.popleft()
        self.quick = number >= _ENOUGH and len(slow) * 20 < min(number, _WINDOW)
