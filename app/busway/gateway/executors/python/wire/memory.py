"""Measure the memory of a process: the gateway measures its workers, and a worker itself."""

from __future__ import annotations

import os

_open, _read, _close = os.open, os.read, os.close  # handler code may replace those of the module
MIB = 1024 * 1024
_ENOUGH = 8192  # bytes of /proc/PID/status
_COUNTED = (b"RssAnon:", b"RssShmem:")


def resident(pid: int | None) -> int | None:
    """Return the memory of a process in bytes, None if it has ended.

    Pages of files are not counted. The kernel can take them back, and a fork gets them into its page tables
    only when it touches them.
    """
    try:
        descriptor = _open(f"/proc/{pid}/status", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        status = _read(descriptor, _ENOUGH)
    except OSError:
        return None
    finally:
        _close(descriptor)
    if _COUNTED[0] not in status:
        return None  # dead, but not reaped
    return sum(int(status.partition(name)[2].split(maxsplit=1)[0]) for name in _COUNTED) * 1024
