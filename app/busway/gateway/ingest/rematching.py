"""Matches events again that were matched with older handlers than the store has."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from busway.domain.handler import Rules
from busway.gateway.errors import Unavailable
from busway.gateway.store.port.commits import Again
from busway.gateway.store.port.operations import Publish, Settle

log = logging.getLogger("busway.ingest")

_PAUSE = 0.2  # seconds until events are sent again whose handlers cannot be read now


class Rematching:
    """Waits for the newer handlers, matches the events with them, and sends the operation again.

    Args:
        rules: matches events to handlers.
        renew: waits until `rules` has the handlers of the store.
    """

    def __init__(self, rules: Rules, renew: Callable[[], Awaitable[None]]) -> None:
        self._rules, self._renew = rules, renew
        self._tasks: set[asyncio.Task[None]] = set()

    def take(self, operation: Publish | Settle, again: Again) -> None:
        """Match the events of an operation again, and pass it to `again`."""
        task = asyncio.create_task(self._match(operation, again))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _match(self, operation: Publish | Settle, again: Again) -> None:
        try:
            await self._renew()
        except Unavailable:
            await asyncio.sleep(_PAUSE)  # the store refuses it, or says again that it is outdated
        rules = self._rules
        edition = None
        while edition is not rules.edition:
            edition = rules.edition
            events = operation.events if isinstance(operation, Publish) else operation.published
            for _ in rules.match_all(events):
                await asyncio.sleep(0)
        operation.rules = rules.version
        again(operation)
