"""The wall clock of this machine."""

from __future__ import annotations

import time


def clock() -> int:
    """Return the time in microseconds since 1970."""
    return time.time_ns() // 1000
