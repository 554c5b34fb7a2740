"""A limit for log lines, because clients can cause very many of the same kind."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

MOST = 10  # lines a second from one place in the code
_LIMITED_ALREADY = "busway.workers.output"  # the logger of what handlers print: 100 lines a second and child


class LogLimit(logging.Filter):
    """Lets the first lines of each second pass, counted by their place in the code.

    Attributes:
        left_out: how many lines did not pass.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.left_out = 0
        self._clock = clock
        self._places: dict[tuple[str, int], _Place] = {}  # there are as many as the code has

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the line passes. The first one after others did not says how many these were."""
        if record.name == _LIMITED_ALREADY:
            return True
        now = self._clock()
        place = self._places.setdefault((record.pathname, record.lineno), _Place())
        if now - place.since >= 1:
            if place.left_out:
                record.msg = f"{record.getMessage()} (and {place.left_out} more lines like this one before)"
                record.args = ()
            place.since, place.passed, place.left_out = now, 0, 0
        if place.passed >= MOST:
            place.left_out += 1
            self.left_out += 1
            return False
        place.passed += 1
        return True


class _Place:
    def __init__(self) -> None:
        self.since = float("-inf")
        self.passed = self.left_out = 0


limit = LogLimit()
