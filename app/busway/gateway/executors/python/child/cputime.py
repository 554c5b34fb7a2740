"""What CPU time the attempts of a thread take."""

from __future__ import annotations

import os
import threading
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


class _Mark(threading.local):
    descriptor = -1
    before = 0


_mark = _Mark()


def starved() -> float:
    """Return the seconds since the last call in this thread, 0 where the kernel does not tell.

    On a busy machine an attempt that computes takes as long as one that waits; this tells them apart.
    """
    try:
        if _mark.descriptor < 0:
            _mark.descriptor = os.open("/proc/thread-self/schedstat", os.O_RDONLY | os.O_CLOEXEC)
        waited = int(os.pread(_mark.descriptor, 64, 0).split()[1])
    except (OSError, ValueError, IndexError):  # handler code closed it, and perhaps opened another
        return 0.0
    since, _mark.before = waited - _mark.before, waited
    return since / 1e9
