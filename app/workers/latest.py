"""Send the newest progress of attempts that had no room for it, as soon as they have."""

from __future__ import annotations

import threading
import time
from typing import Protocol

_NAP = 0.01  # seconds


class Late(Protocol):
    """An attempt with progress that is still to be sent."""

    def send_late(self) -> bool:
        """Send it; False if there is still no room for it."""


class Latest:
    """One thread a worker, only while something is late: the attempts themselves may be busy or blocked."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._late: set[Late] = set()

    def add(self, late: Late) -> None:
        """Look after an attempt until its progress is sent."""
        with self._lock:
            idle = not self._late
            self._late.add(late)
        if idle:
            threading.Thread(target=self._run, name="busway-latest", daemon=True).start()

    def _run(self) -> None:
        while True:
            time.sleep(_NAP)
            with self._lock:
                self._late = {late for late in self._late if not late.send_late()}
                if not self._late:
                    return
