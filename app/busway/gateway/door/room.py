"""How many connections there is room for; without room the newest wins over the oldest silent one."""

from __future__ import annotations

import errno
import functools
import logging
import resource
import time
from collections.abc import Set as AbstractSet
from operator import itemgetter
from pathlib import Path
from typing import Any

log = logging.getLogger("busway.door")

SAY_EVERY = 60.0  # seconds between two log lines that say the same
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}


class Counts:
    """Connections closed or not accepted for lack of descriptors since the process started."""

    def __init__(self) -> None:
        self.cut = 0  # silent connections
        self.unaccepted = 0  # connections that the system could not accept
        self._said = -SAY_EVERY

    def say(self, text: str) -> None:
        """Log a line, at most one a minute."""
        now = time.monotonic()
        if now - self._said >= SAY_EVERY:
            self._said = now
            log.warning("%s: raise the limit of open files (ulimit -n), or see who connects", text)


counts = Counts()


def room() -> int:
    """Return how many connections the limit of open files allows, beside the gateway's own descriptors."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit == resource.RLIM_INFINITY:
        return 1 << 30
    return max(8, limit - _own() - max(16, limit // 8))


@functools.cache
def _own() -> int:
    """Return how many descriptors the process had at the first call."""
    try:
        return sum(1 for _ in Path("/proc/self/fd").iterdir())
    except OSError:
        return 64


def make_room(connections: AbstractSet[Any]) -> None:
    """Close the connections that have waited longest for a request, if there are too many.

    Each has `waiting_since`, None if it does not wait for a request, and `cut`.
    """
    here = room()
    excess = len(connections) - here
    if excess <= 0:
        return
    waiting = [(c.waiting_since, c) for c in connections if c.waiting_since is not None]
    waiting.sort(key=itemgetter(0))
    for _, connection in waiting[: excess + here // 100]:
        counts.cut += 1
        connection.cut()
    counts.say(f"there is room for {here} connections: the oldest silent ones are closed")


def is_no_room(fault: object) -> bool:
    """Return whether an error means that the system cannot accept a connection; count it if so."""
    if not isinstance(fault, OSError) or fault.errno not in _NO_ROOM:
        return False
    counts.unaccepted += 1
    counts.say(f"a connection cannot be accepted ({fault.strerror})")
    return True
