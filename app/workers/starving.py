"""How long the calling thread was ready to run and had no processor."""

from __future__ import annotations

import os
import threading


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
