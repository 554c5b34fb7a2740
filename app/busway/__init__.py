"""The public API: `handler`, `Context`, `Event`, `Retry` and `Fail` for handler code, and the clients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from busway.context import Context
from busway.event import Event
from busway.handlers import Fail, Retry, handler
from busway.version import __version__

if TYPE_CHECKING:
    from busway.client.aio import BuswayClientError, Client
    from busway.client.sync import SyncClient

__all__ = [
    "BuswayClientError",
    "Client",
    "Context",
    "Event",
    "Fail",
    "Retry",
    "SyncClient",
    "__version__",
    "handler",
]


def __getattr__(name: str) -> Any:
    # Lazy: workers import this package and do not need the HTTP and WebSocket clients.
    if name in {"BuswayClientError", "Client"}:
        from busway.client import aio as client  # noqa: PLC0415 - see above

        return getattr(client, name)
    if name == "SyncClient":
        from busway.client.sync import SyncClient  # noqa: PLC0415 - see above

        return SyncClient
    raise AttributeError(f"module 'busway' has no attribute {name!r}")
