"""Scopes, and the access that they grant."""

from __future__ import annotations

import msgspec


class Access(msgspec.Struct, frozen=True):
    """What a request may do. `key` is the id of its API key, None while the gateway has no keys."""

    key: int | None
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        """Return whether `scope` is granted. `admin` grants all scopes."""
        return scope in self.scopes or "admin" in self.scopes


OPEN = Access(None, frozenset({"admin"}))
