"""The public API: `handler`, `Context`, `Event`, `Retry` and `Fail` for handler code, and the clients."""

from __future__ import annotations

import importlib

from busway.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from busway.client.aio import BuswayClientError, Client
    from busway.client.sync import SyncClient
    from busway.context import Context
    from busway.event import Event
    from busway.handlers import Fail, Retry, handler

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

_MODULES = {
    "BuswayClientError": "busway.client.aio",
    "Client": "busway.client.aio",
    "Context": "busway.context",
    "Event": "busway.event",
    "Fail": "busway.handlers",
    "Retry": "busway.handlers",
    "SyncClient": "busway.client.sync",
    "handler": "busway.handlers",
}


def __getattr__(name: str) -> Any:
    # Lazy: the command installs its signal handlers before longer imports, and workers need no clients.
    if name not in _MODULES:
        raise AttributeError(f"module 'busway' has no attribute {name!r}")
    found = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
