"""What handler code imports: `handler`, `Context`, `Retry`, `Fail`; and clients for programs outside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from busway.context import Context
from busway.event import Event
from busway.handlers import Fail, Retry, handler

if TYPE_CHECKING:
    from busway.client import BuswayClientError, Client
    from busway.sync import SyncClient

__all__ = ["BuswayClientError", "Client", "Context", "Event", "Fail", "Retry", "SyncClient", "handler"]


def __getattr__(name: str) -> Any:
    # Lazy: a worker imports this package and has no use for an HTTP and WebSocket client.
    if name in {"BuswayClientError", "Client"}:
        from busway import client  # noqa: PLC0415 - see above

        return getattr(client, name)
    if name == "SyncClient":
        from busway.sync import SyncClient  # noqa: PLC0415 - see above

        return SyncClient
    raise AttributeError(f"module 'busway' has no attribute {name!r}")
