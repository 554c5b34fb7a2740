"""Long work in short steps, so that one request does not hold the event loop.

A step is a part of a generator, up to its next `yield`. In each turn of the loop one step of one request is
done. So many long requests at a time hold the loop no longer than one. A request with a step that cannot be
short, such as the decoding of an event with very many small members, waits before its next one.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import TypeVar

Value = TypeVar("Value")
Steps = Generator[None, None, Value]
Failed = Callable[[BaseException], None]
_LONG = 0.004  # seconds of CPU time; a step that takes longer is followed by a pause
_PAUSE = 4.0  # of so many times its length


class Line:
    """Work that must be done in order, such as the events of one WebSocket."""

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting: deque[tuple[Steps[None], Failed]] = deque()


class Turns:
    """Gives out the turns of the running event loop, one after the other.

    Attributes:
        given: how many turns were given.
    """

    def __init__(self) -> None:
        self.given = 0
        self._lines: deque[Line] = deque()
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._scheduled = False

    def start(self, steps: Steps[None], failed: Failed, line: Line | None = None) -> None:
        """Do the first step now, and the others in later turns.

        Args:
            steps: the work. An exception of the first step is raised here.
            failed: called with the exception of a later step.
            line: the work that must be done first. None: there is none.
        """
        if line is None or not line.waiting:
            try:
                next(steps)
            except StopIteration:
                return
            line = line or Line()
            self._lines.append(line)
        line.waiting.append((steps, failed))
        self._schedule()

    async def next(self) -> None:
        """Wait for a turn."""
        turn = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._schedule()
        await turn

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._give)

    def _give(self) -> None:
        """Give one turn: to those who wait for one and to work in steps by turns."""
        self._scheduled = False
        while self._waiting and self._waiting[0].done():
            self._waiting.popleft()  # it was cancelled
        self.given += 1
        if self._waiting and (self.given % 2 or not self._lines):
            self._waiting.popleft().set_result(None)
        elif self._lines:
            self._step(self._lines.popleft())
        if self._waiting or self._lines:
            self._schedule()

    def _step(self, line: Line) -> None:
        steps, failed = line.waiting[0]
        began = time.thread_time()
        try:
            next(steps)
        except StopIteration:
            line.waiting.popleft()
        except Exception as problem:
            line.waiting.popleft()
            failed(problem)
        if not line.waiting:
            return
        took = time.thread_time() - began
        if took > _LONG:
            asyncio.get_running_loop().call_later(took * _PAUSE, self._go_on, line)
        else:
            self._lines.append(line)

    def _go_on(self, line: Line) -> None:
        self._lines.append(line)
        self._schedule()


def finish(steps: Steps[Value]) -> Value:
    """Do all steps now and return what they return."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            value: Value = end.value
            return value


async def spread(steps: Steps[Value]) -> Value:
    """Do all steps, each in a turn of the loop, and return what they return."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            value: Value = end.value
            return value
        await asyncio.sleep(0)
