"""A trial: an attempt without a run, of which nothing is stored."""

from __future__ import annotations

import asyncio
import secrets

from busway.gateway.executors.port import Ended, Partial, Returned, WorkerReport

MOST = 1000  # partials kept
MOST_BYTES = 1024 * 1024  # bytes of data in them


class Trial:
    """What the attempt of a trial has reported so far.

    Attributes:
        ended: resolves when the attempt ended, with None if it never started.
        left_out: how many partials were dropped because the limits were reached.
    """

    def __init__(self) -> None:
        self.token = secrets.randbits(62) << 1 | 1
        self.partials: list[Partial] = []
        self.left_out = 0
        self.ended: asyncio.Future[Ended | None] = asyncio.get_running_loop().create_future()
        self._size = 0

    def take(self, report: WorkerReport) -> None:
        """Process a report of this attempt."""
        if self.ended.done():
            return
        if isinstance(report, Partial):
            self._add(report)
        elif isinstance(report, Ended):
            self.ended.set_result(report)
        elif isinstance(report, Returned):
            self.ended.set_result(None)

    def _add(self, value: Partial) -> None:
        if len(self.partials) >= MOST or self._size + len(value.data) > MOST_BYTES:
            self.left_out += 1
            return
        self._size += len(value.data)
        self.partials.append(value)
