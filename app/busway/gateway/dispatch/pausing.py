"""Pauses handlers that the gateway itself finds a reason to pause."""

from __future__ import annotations

import asyncio
import logging

from busway.gateway.dispatch.changes import HandlerChanges
from busway.gateway.errors import Conflict, NotFound, Unavailable

log = logging.getLogger("busway.dispatch")

_AGAIN = 1.0  # seconds until a pause that could not be stored is tried again


class Pauses:
    """Pauses handlers in the background, each once at a time."""

    def __init__(self, changes: HandlerChanges) -> None:
        self._changes = changes
        self._under_way: dict[str, asyncio.Task[None]] = {}

    def pause(self, name: str, target: str, why: str) -> None:
        """Pause a handler, unless its target has changed meanwhile."""
        if name not in self._under_way:
            task = asyncio.get_running_loop().create_task(self._pause(name, target, why))
            self._under_way[name] = task
            task.add_done_callback(lambda _: self._under_way.pop(name))

    async def _pause(self, name: str, target: str, why: str) -> None:
        while True:
            try:
                if await self._changes.pause_because(name, target, why):
                    log.warning("the handler %s was paused: %s", name, why)
            except Unavailable:
                await asyncio.sleep(_AGAIN)
            except (NotFound, Conflict):
                return
            else:
                return
