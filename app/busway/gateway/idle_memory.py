"""Gives memory that the C allocator keeps back to the system when the gateway has little to do.

Under load the newest results in memory and everything else of more than 512 bytes come and go by the
million, in all sizes. glibc keeps what was freed for the next allocation. Within an hour of load that grew to
as much as was in use, and a gateway without work kept it.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable

EVERY = 2.0  # seconds between two looks
CALM = 0.05  # seconds of CPU time between two looks: with nothing to do it is less
WORTH = 1.0  # seconds of CPU time since memory was given back: with less, there is nothing to give


def give_back() -> None:
    """Give the free memory of the C allocator back. Do nothing if it has no such function, as musl."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


class IdleMemory:
    """Decides when memory is given back: once when work has ended, and not while there is work.

    Args:
        used: returns the CPU time of this process, in seconds.
        give: gives memory back.
    """

    def __init__(
        self, used: Callable[[], float] = time.process_time, give: Callable[[], None] = give_back
    ) -> None:
        self._used, self._give = used, give
        self._looked = self._given = 0.0

    def look(self) -> None:
        """Give memory back if it is time. Call it every `EVERY` seconds."""
        now = self._used()
        calm = now - self._looked < CALM
        self._looked = now
        if calm and now - self._given >= WORTH:
            self._give()
            self._looked = self._given = self._used()
