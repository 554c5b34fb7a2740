"""Run sync targets in up to so many threads of a worker."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Iterator

from app.workers.inline import perform
from app.workers.invocation import Invocation
from app.workers.lifecycle import Await
from app.workers.outbox import Outbox

_TOGETHER = 8  # quick attempts that one thread makes in a row: to wake another for each costs more

_Row = deque[Invocation]


class Threads:
    """Threads that start when they are needed and stay; used from the worker's main thread.

    What stands behind an attempt that turns out long waits until the gateway sees that it does not begin
    and has it hurried.
    """

    def __init__(self, limit: int, outbox: Outbox, wait: Await) -> None:
        self._limit = limit
        self._outbox = outbox
        self._wait = wait
        self._queue: queue.SimpleQueue[_Row] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._taken: dict[int, _Row] = {}  # what each thread has before it
        self._pending = 0
        self._started = 0

    def submit(self, invocations: list[Invocation]) -> None:
        """Have the next free threads make the attempts."""
        for row in _in_rows(invocations):
            self._put(row)

    def hurry(self) -> None:
        """Give what stands behind another attempt to threads of their own."""
        for row in list(self._taken.values()):
            while row:
                try:
                    self._put(deque((row.popleft(),)))
                except IndexError:
                    break  # its thread was faster

    def _put(self, row: _Row) -> None:
        with self._lock:
            self._pending += 1
            more = self._started < min(self._pending, self._limit)
            self._started += more
        self._queue.put(row)
        if more:
            threading.Thread(target=self._work, name=f"busway-{self._started}", daemon=True).start()

    def _work(self) -> None:
        me = threading.get_ident()
        while True:
            row = self._taken[me] = self._queue.get()
            several = len(row) > 1
            while row:
                try:
                    invocation = row.popleft()
                except IndexError:
                    break  # it was hurried
                self._outbox.flush_soon()  # what is answered already must not wait for this one
                perform(invocation, self._wait)
            with self._lock:
                self._pending -= 1
            if several or self._queue.empty():
                self._outbox.flush()  # so that the gateway works on these while the next are made
            else:
                self._outbox.flush_soon()


def _in_rows(invocations: list[Invocation]) -> Iterator[_Row]:
    quick: _Row = deque()
    for invocation in invocations:
        if not invocation.call.quick:
            yield deque((invocation,))
            continue
        quick.append(invocation)
        if len(quick) == _TOGETHER:
            yield quick
            quick = deque()
    if quick:
        yield quick
