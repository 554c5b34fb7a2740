"""What CPU time the attempts of a thread take."""

from __future__ import annotations

import time

BRIEF = 50_000  # nanoseconds


class CpuTime:
    """Of attempts that the calling thread makes one after another.

    To ask the kernel takes as long as a no-op does. So an attempt that took less than `BRIEF` is believed to
    have computed all that time, and when another one began is reckoned from when the kernel was asked last.
    """

    __slots__ = ("_asked_at", "_spent")

    def __init__(self) -> None:
        self._spent, self._asked_at = time.thread_time(), time.monotonic_ns()

    def of(self, since: int, took: int) -> float:
        """Return the seconds of the attempt that just ended.

        Args:
            since: when it began, monotonic nanoseconds.
            took: how long it took, nanoseconds; it had no more CPU time than that.
        """
        if took < BRIEF:
            return took / 1e9
        before = self._spent + (since - self._asked_at) / 1e9
        self._spent, self._asked_at = time.thread_time(), since + took
        return min(max(0.0, self._spent - before), took / 1e9)
