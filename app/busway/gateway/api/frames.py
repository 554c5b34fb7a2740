"""Publishing in frames of a WebSocket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from busway.gateway.access.scopes import Access
from busway.gateway.ingest.publisher import EventWaiter, Publisher, receipt
from busway.gateway.turns import Line


def publish_frame(publisher: Publisher) -> Callable[[bytes, Access, Line], Awaitable[dict[str, Any]]]:
    """Return what stores the event of a frame and returns its receipt."""

    async def publish(body: bytes, access: Access, line: Line) -> dict[str, Any]:
        waiter = EventWaiter(asyncio.get_running_loop().create_future())
        publisher.submit(body, waiter, line, allowed=access.allowed)
        stored = await waiter.stored
        return msgspec.structs.asdict(receipt(waiter.events[0], stored[0]))

    return publish
