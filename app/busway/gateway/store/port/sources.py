"""The operations of sources of webhooks."""

from __future__ import annotations

from busway.domain.source import Source
from busway.gateway.store.port.operations import Operation


class SaveSource(Operation, kw_only=True):
    """Insert or replace a source of webhooks. It raises the version of the handlers and keys.

    Reply: bool, False if it was changed meanwhile. `seen`: the `updated_at` of what it replaces, 0 if no
    source has the name.
    """

    source: Source
    seen: int = 0


class DeleteSource(Operation, kw_only=True):
    """Delete a source of webhooks. It raises the version of the handlers and keys.

    Reply: bool, False if none has that name.
    """

    name: str
