"""The executors of a node as one: functions run in workers, events for URLs are sent."""

from __future__ import annotations

import asyncio
from typing import Any

from busway.domain.weburl import HTTP
from busway.gateway.executors.http.deliveries import Deliveries
from busway.gateway.executors.port import Assignment, Catalog, Listener, Workers


class Executors:
    """Implements `Workers` with two others.

    Args:
        workers: run functions.
        deliveries: send events.
    """

    def __init__(self, workers: Workers, deliveries: Deliveries) -> None:
        self._workers, self._deliveries = workers, deliveries

    def listen(self, listener: Listener) -> None:
        """Set the function that receives all reports. Call it once."""
        self._workers.listen(listener)
        self._deliveries.listen(listener)

    async def start(self) -> Catalog:
        """Start the workers. Return what the handlers folder defines."""
        return await self._workers.start()

    async def renewed(self) -> Catalog:
        """Wait until handler code has changed. Deliveries go on."""
        return await self._workers.renewed()

    def take_over(self) -> None:
        """Let attempts of functions start again."""
        self._workers.take_over()

    def extend_lease(self, end: int) -> None:
        """Start no attempt after `end`, and end exclusive ones then. Nanoseconds of CLOCK_BOOTTIME."""
        self._workers.extend_lease(end)
        self._deliveries.extend_lease(end)

    def offer(self, assignment: Assignment) -> bool:
        """Offer an attempt. Return False if its pool has no room."""
        return (self._deliveries if assignment.pool == HTTP else self._workers).offer(assignment)

    def cancel(self, token: int) -> bool:
        """Stop an attempt whose outcome is stored. Return whether it may still run."""
        return self._deliveries.cancel(token) or self._workers.cancel(token)

    def credit(self, token: int, size: int) -> None:
        """Record that a partial was stored."""
        self._workers.credit(token, size)

    async def drain(self, timeout: float) -> None:
        """Accept nothing new and wait up to `timeout` seconds."""
        await asyncio.gather(self._workers.drain(timeout), self._deliveries.drain(timeout))

    async def stop(self) -> None:
        """End everything."""
        await asyncio.gather(self._workers.stop(), self._deliveries.stop())

    def status(self) -> dict[str, Any]:
        """Describe zygote, pools and workers."""
        status = self._workers.status()
        return {**status, "pools": {**status["pools"], **self._deliveries.status()}}
