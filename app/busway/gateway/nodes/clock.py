"""The time that all nodes of a cell share: the database's."""

from __future__ import annotations

import time
from collections.abc import Callable


class CellClock:
    """Returns the time of the database, in microseconds since 1970: that of a monotonic clock plus an offset.

    Args:
        own: the clock of this machine, in microseconds since 1970.
        monotonic: in nanoseconds.
    """

    def __init__(self, own: Callable[[], int], monotonic: Callable[[], int] = time.monotonic_ns) -> None:
        self._own, self._monotonic = own, monotonic
        self._offset = own() - self.monotonic()

    def __call__(self) -> int:
        """Return the time of the database."""
        return self.monotonic() + self._offset

    def monotonic(self) -> int:
        """Return the time of the monotonic clock in microseconds."""
        return self._monotonic() // 1000

    def measured(self, sent: int, time_there: int) -> None:
        """Take the answer to a question that was sent at a time of the monotonic clock.

        The database read its clock at an unknown moment since then. So the offset changes only if it cannot
        be right, and by no more than that: a slow answer does not disturb it.
        """
        lowest, highest = time_there - self.monotonic(), time_there - sent
        self._offset = min(max(self._offset, lowest), highest)

    def skew(self) -> int:
        """Return by how many microseconds the clock of this machine is behind."""
        return self() - self._own()
