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
from app.workers.pace import QUICK

_ROW = 0.0004  # seconds of quick attempts that one thread makes in a row: to wake another costs more
_AT_ONCE = 8  # answers that leave together while a row goes on: the gateway works on them meanwhile
_UNKNOWN = _ROW / _AT_ONCE  # seconds that an attempt is taken to last before any was made
_SLOWLY = 1 / 64  # how much of what an attempt took longer than it was taken to is believed

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
        self._lasts: dict[
            str, float
        ] = {}  # seconds that a handler's attempts take when nothing holds them up

    def submit(self, invocations: list[Invocation]) -> None:
        """Have the next free threads make the attempts."""
        for row in self._in_rows(invocations):
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
            several, made, cpu = len(row) > 1, 0, None
            while row:
                try:
                    invocation = row.popleft()
                except IndexError:
                    break  # it was hurried
                self._outbox.flush_soon()  # what is answered already must not wait for this one
                cpu = perform(invocation, self._wait, cpu)
                if invocation.call.quick:
                    self._note(invocation)
                made += 1
                if not made % _AT_ONCE:
                    self._outbox.flush()
            with self._lock:
                self._pending -= 1
            if several or self._queue.empty():
                self._outbox.flush()
            else:
                self._outbox.flush_soon()

    def _note(self, invocation: Invocation) -> None:
        # The shortest tells what an attempt takes: others may have waited for the interpreter.
        wall, handler = min(invocation.wall, QUICK), invocation.call.handler
        known = self._lasts.get(handler, wall)
        self._lasts[handler] = wall if wall <= known else known + (wall - known) * _SLOWLY

    def _in_rows(self, invocations: list[Invocation]) -> Iterator[_Row]:
        row: _Row = deque()
        lasts = 0.0
        for invocation in invocations:
            if not invocation.call.quick:
                yield deque((invocation,))
                continue
            row.append(invocation)
            lasts += self._lasts.get(invocation.call.handler, _UNKNOWN)
            if lasts >= _ROW:
                yield row
                row, lasts = deque(), 0.0
        if row:
            yield row
