"""A fixed amount of work in plain Python, some milliseconds long."""

from __future__ import annotations

import time

STEPS = 150_000


def compute(_event: object) -> int:
    """Compute; return the nanosecond in which it began."""
    began = time.time_ns()
    total = 0
    for n in range(STEPS):
        total = (total * 31 + n) % 1_000_003
    return began
