"""The public API: `handler`, `Context`, `Event`, `Retry` and `Fail` for handler code, and the clients."""

from __future__ import annotations

import importlib

from busway.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from busway.client.aio import Client
    from busway.client.errors import BuswayClientError, Gap
    from busway.client.subscription import Subscription
    from busway.client.sync import SyncClient, SyncSubscription
    from busway.client.waiting import Completed, NotCompleted
    from busway.context import Context
    from busway.contract.events import Receipt
    from busway.contract.results import Item
    from busway.domain.jsonvalue import NotEncodable
    from busway.event import Event
    from busway.handlers import Fail, Retry, handler
    from busway.payloads import InvalidData

__all__ = [
    "BuswayClientError",
    "Client",
    "Completed",
    "Context",
    "Event",
    "Fail",
    "Gap",
    "InvalidData",
    "Item",
    "NotCompleted",
    "NotEncodable",
    "Receipt",
    "Retry",
    "Subscription",
    "SyncClient",
    "SyncSubscription",
    "__version__",
    "handler",
]

_MODULES = {
    "BuswayClientError": "busway.client.errors",
    "Client": "busway.client.aio",
    "Completed": "busway.client.waiting",
    "Context": "busway.context",
    "Event": "busway.event",
    "Fail": "busway.handlers",
    "Gap": "busway.client.errors",
    "InvalidData": "busway.payloads",
    "Item": "busway.contract.results",
    "NotCompleted": "busway.client.waiting",
    "NotEncodable": "busway.domain.jsonvalue",
    "Receipt": "busway.contract.events",
    "Retry": "busway.handlers",
    "Subscription": "busway.client.subscription",
    "SyncClient": "busway.client.sync",
    "SyncSubscription": "busway.client.sync",
    "handler": "busway.handlers",
}


if not TYPE_CHECKING:  # type checkers must not take it for a promise of any name

    def __getattr__(name: str) -> object:
        # Lazy: the command installs its signal handlers before longer imports, and workers need no clients.
        if name not in _MODULES:
            raise AttributeError(f"module 'busway' has no attribute {name!r}")
        found = globals()[name] = getattr(importlib.import_module(_MODULES[name]), name)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
