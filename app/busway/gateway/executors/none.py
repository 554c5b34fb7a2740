"""The executor of a node without workers, which starts no attempt."""

from __future__ import annotations

import asyncio
from typing import Any

from busway.gateway.executors.port import Assignment, Catalog, Listener


class NoWorkers:
    """Implements `Workers` for a node that runs no handler code."""

    def listen(self, listener: Listener) -> None:
        """Do nothing: there are no reports."""

    async def start(self) -> Catalog:
        """Return nothing: this node has no handlers folder."""
        return []

    async def renewed(self) -> Catalog:
        """Wait for ever: there is no code that could change."""
        return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return] # never returns

    def take_over(self) -> None:
        """Do nothing."""

    def extend_lease(self, end: int) -> None:
        """Do nothing."""

    def offer(self, assignment: Assignment) -> bool:  # noqa: ARG002 - the port's
        """Return False: there is never room."""
        return False

    def cancel(self, token: int) -> bool:  # noqa: ARG002 - the port's
        """Return False: nothing runs."""
        return False

    def credit(self, token: int, size: int) -> None:
        """Do nothing."""

    async def drain(self, timeout: float) -> None:
        """Do nothing."""

    async def stop(self) -> None:
        """Do nothing."""

    def status(self) -> dict[str, Any]:
        """Return a status without pools."""
        zygote = {"pid": None, "starts_workers_by": "fork", "restarts": 0, "error": None}
        return {"zygote": zygote, "deaths": {}, "pools": {}}
