"""Who asks: the key's number and its scopes, as a value that every door checks."""

from __future__ import annotations

import msgspec


class Access(msgspec.Struct, frozen=True):
    """What the holder of a key may do; `key` is None while the gateway is open (loopback, no key made)."""

    key: int | None
    scopes: frozenset[str]

    def may(self, scope: str) -> bool:
        """Tell whether `scope` is granted; `admin` grants all."""
        return scope in self.scopes or "admin" in self.scopes


OPEN = Access(None, frozenset({"admin"}))
