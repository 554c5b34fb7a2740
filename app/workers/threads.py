"""Run sync targets in up to so many threads of a worker."""

from __future__ import annotations

import queue
import threading

from app.workers.inline import perform
from app.workers.invocation import Invocation
from app.workers.lifecycle import Await
from app.workers.outbox import Outbox


class Threads:
    """Threads that start when they are needed and stay; used from the worker's main thread."""

    def __init__(self, limit: int, outbox: Outbox, wait: Await) -> None:
        self._limit = limit
        self._outbox = outbox
        self._wait = wait
        self._queue: queue.SimpleQueue[Invocation] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._pending = 0
        self._started = 0

    def submit(self, invocation: Invocation) -> None:
        """Have the next free thread make the attempt."""
        with self._lock:
            self._pending += 1
            more = self._started < min(self._pending, self._limit)
            self._started += more
        self._queue.put(invocation)
        if more:
            threading.Thread(target=self._work, name=f"busway-{self._started}", daemon=True).start()

    def _work(self) -> None:
        while True:
            perform(self._queue.get(), self._wait)
            with self._lock:
                self._pending -= 1
            if self._queue.empty():
                self._outbox.flush()
            else:
                self._outbox.flush_soon()
