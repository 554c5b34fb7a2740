"""What handler code imports: `handler`, `Context`, `Retry`, `Fail`; and `Client` for programs outside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from busway.context import Context
from busway.event import Event
from busway.handlers import Fail, Retry, handler

if TYPE_CHECKING:
    from busway.client import Client

__all__ = ["Client", "Context", "Event", "Fail", "Retry", "handler"]


def __getattr__(name: str) -> Any:
    # Lazy: a worker imports this package and has no use for an HTTP and WebSocket client.
    if name == "Client":
        from busway.client import Client  # noqa: PLC0415 - see above

        return Client
    raise AttributeError(f"module 'busway' has no attribute {name!r}")
