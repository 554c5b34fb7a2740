"""Limits for log lines, because clients and handlers can cause very many of the same kind."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable

MOST = 10  # lines a second from one place in the code
OUTPUT = "busway.handlers"  # the logger of what handlers print and log
OUTCOMES = "busway.runs"  # the logger of attempts that failed
AUDIT = "busway.audit"  # the logger of changes; each line is a commit, too
_NOT_LIMITED = {"busway.workers.output", OUTPUT, OUTCOMES, AUDIT}  # here: most have limits of their own


class LogLimit(logging.Filter):
    """Lets the first lines of each second pass, counted by their place in the code.

    Attributes:
        left_out: how many lines did not pass, here or at a limit for handlers.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.left_out = 0
        self._clock = clock
        self._places: dict[tuple[str, int], _Place] = {}  # there are as many as the code has

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether the line passes. The first one after others did not says how many these were."""
        if record.name in _NOT_LIMITED:
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


class LinesOfHandlers:
    """Lets the first lines of each second pass, counted by handler and in total.

    Args:
        each: lines a second of one handler.
        together: lines a second of all handlers.
        say: called with a handler and how many of its lines were left out, within a second. It logs that.
    """

    def __init__(self, each: int, together: int, say: Callable[[str, int], None]) -> None:
        self._each, self._together, self._say = each, together, say
        self._passed: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()
        self._since = float("-inf")
        self._total = 0
        self._timer: asyncio.TimerHandle | None = None

    def free(self, handler: str) -> int:
        """Return how many lines of a handler may still pass now."""
        now = time.monotonic()
        if now - self._since >= 1:
            self._since, self._total = now, 0
            self._passed.clear()
        return min(self._each - self._passed[handler], self._together - self._total)

    def passed(self, handler: str, lines: int = 1) -> None:
        """Record lines that passed."""
        self._passed[handler] += lines
        self._total += lines

    def leave_out(self, handler: str, lines: int = 1) -> None:
        """Record lines that did not pass."""
        self._left_out[handler] += lines
        limit.left_out += lines
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(1, self.flush)

    def flush(self) -> None:
        """Say now how many lines were left out."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        left_out, self._left_out = self._left_out, Counter()
        for handler, lines in left_out.items():
            self._say(handler, lines)
