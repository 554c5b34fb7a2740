"""How many connections there is room for; without room the newest wins over the oldest silent one."""

from __future__ import annotations

import functools
import resource
from collections.abc import Set as AbstractSet
from operator import itemgetter
from pathlib import Path
from typing import Any


@functools.cache
def room() -> int:
    """Return how many connections this process has descriptors for, beside those that it needs itself."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return 1 << 30
    try:
        used = sum(1 for _ in Path("/proc/self/fd").iterdir())
    except OSError:
        used = 64
    return max(8, limit - used - max(16, limit // 8))


def make_room(connections: AbstractSet[Any]) -> None:
    """Cut those that waited longest for a request, if there are more connections than there is room for.

    Each has `waiting_since`, None if it does not wait for a request, and `cut`.
    """
    excess = len(connections) - room()
    if excess <= 0:
        return
    waiting = [(c.waiting_since, c) for c in connections if c.waiting_since is not None]
    waiting.sort(key=itemgetter(0))
    for _, connection in waiting[: excess + room() // 100]:
        connection.cut()
