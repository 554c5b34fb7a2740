"""The operations that replace API keys and record their use."""

from __future__ import annotations

from busway.gateway.store.port.operations import CreateKey, Operation


class RotateKey(Operation, kw_only=True):
    """Store a key that replaces another one, which expires at `until`, or earlier if it does so already.

    It raises the version of the handlers and keys. Reply: the new key's id. None: no valid key has that `id`.
    """

    id: int
    until: int
    key: CreateKey


class UseKeys(Operation, kw_only=True):
    """Record that keys were used, at most once a minute each. Reply: None."""

    ids: list[int]
    now: int
