"""Measure the CPU time of attempts."""

from __future__ import annotations

import os
import threading
from time import monotonic_ns, thread_time  # handler code may replace that of the module

_open, _pread = os.open, os.pread  # handler code may replace those of the module
BRIEF = 50_000  # nanoseconds


class CpuTime:
    """CPU time of attempts that the calling thread runs one after another.

    A call to the kernel takes as long as an empty attempt. So an attempt shorter than `BRIEF` counts as if it
    had computed all the time. For a longer one, the CPU time of the shorter ones since the last call to the
    kernel is estimated and subtracted.
    """

    __slots__ = ("_asked_at", "_spent")

    def __init__(self) -> None:
        self._spent, self._asked_at = thread_time(), monotonic_ns()

    def of(self, since: int, took: int) -> float:
        """Return the CPU seconds of the attempt that just ended.

        Args:
            since: when it began, in monotonic nanoseconds.
            took: its duration in nanoseconds, which limits the result.
        """
        if took < BRIEF:
            return took / 1e9
        before = self._spent + (since - self._asked_at) / 1e9
        self._spent, self._asked_at = thread_time(), since + took
        return min(max(0.0, self._spent - before), took / 1e9)


class _Mark(threading.local):
    descriptor = -1
    before = 0


_mark = _Mark()


def starved() -> float:
    """Return the seconds that this thread waited for a CPU since the last call, 0 if they are unknown.

    On a busy machine, an attempt that computes takes as long as one that waits. This tells them apart.
    """
    try:
        if _mark.descriptor < 0:
            _mark.descriptor = _open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        waited = int(_pread(_mark.descriptor, 64, 0).split()[1])
    except (OSError, ValueError, IndexError):  # handler code closed it and may have reused the number
        return 0.0
    since, _mark.before = waited - _mark.before, waited
    return since / 1e9
