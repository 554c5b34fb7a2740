"""Attempts on their way into a worker."""

from __future__ import annotations

import asyncio

from app.channel import Channel
from app.workers import wire
from app.workers.base import Assignment
from app.workers.wire import Call, ToWorker

_RUN = int(ToWorker.RUN)  # enum members are slow to look up
_FULL = 32 * 1024  # bytes of payloads: the worker reads no more than twice that at a time


class Calls:
    """Those of one turn of the loop leave as one frame, or as several if they are much."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._kept: list[Call] = []
        self._size = 0
        self._loop = asyncio.get_running_loop()

    def add(self, assignment: Assignment, seat: int, quick: bool) -> None:
        """Keep an attempt until the end of the turn."""
        if not self._kept:
            self._loop.call_soon(self.flush)
        event = assignment.event
        call = Call(
            assignment.token, seat, assignment.run, assignment.attempt, assignment.handler,
            assignment.revision, assignment.target, event, quick,
        )  # fmt: skip
        self._kept.append(call)
        data = event.data
        if data is not None:
            self._size += len(data)
            if self._size >= _FULL:
                self._send()

    def flush(self) -> None:
        """Send what is kept now."""
        if self._kept:
            self._send()
        self._channel.flush()

    def _send(self) -> None:
        self._channel.send(_RUN, 0, wire.encode(self._kept))
        self._kept.clear()
        self._size = 0
