"""Run sync targets in up to so many threads of a worker."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator

from app.workers.inline import perform
from app.workers.invocation import Invocation
from app.workers.lifecycle import Await
from app.workers.outbox import Outbox

_TOGETHER = (
    8  # quick attempts that one thread makes in a row: waking another for each costs more than they do
)


class Threads:
    """Threads that start when they are needed and stay; used from the worker's main thread."""

    def __init__(self, limit: int, outbox: Outbox, wait: Await) -> None:
        self._limit = limit
        self._outbox = outbox
        self._wait = wait
        self._queue: queue.SimpleQueue[list[Invocation]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._pending = 0
        self._started = 0

    def submit(self, invocations: list[Invocation]) -> None:
        """Have the next free threads make the attempts."""
        for together in _grouped(invocations):
            with self._lock:
                self._pending += 1
                more = self._started < min(self._pending, self._limit)
                self._started += more
            self._queue.put(together)
            if more:
                threading.Thread(target=self._work, name=f"busway-{self._started}", daemon=True).start()

    def _work(self) -> None:
        while True:
            together = self._queue.get()
            for invocation in together:
                self._outbox.flush_soon()  # what is answered already must not wait for this one
                perform(invocation, self._wait)
            with self._lock:
                self._pending -= 1
            if len(together) > 1 or self._queue.empty():
                self._outbox.flush()  # so that the gateway works on these while the next are made
            else:
                self._outbox.flush_soon()


def _grouped(invocations: list[Invocation]) -> Iterator[list[Invocation]]:
    quick: list[Invocation] = []
    for invocation in invocations:
        if not invocation.call.quick:
            yield [invocation]
            continue
        quick.append(invocation)
        if len(quick) == _TOGETHER:
            yield quick
            quick = []
    if quick:
        yield quick
