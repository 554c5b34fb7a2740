"""Scopes and type patterns, and the access that they grant."""

from __future__ import annotations

from functools import lru_cache
from typing import Literal

import msgspec

from busway.domain.pattern import Matcher, matcher

_matcher = lru_cache(1_000)(matcher)


class Access(msgspec.Struct, frozen=True):
    """Who sent a request, and what it may do.

    Attributes:
        key: a number that identifies the client, None while the gateway is open. It is the id of an API key,
            and a negative number for the subject of a token.
        scopes: what the key or the token grants.
        types: patterns: it concerns only events of these types. Empty: of all types.
        name: for people: the name of the key, or the subject of the token. Empty while the gateway is open.
        source: how it was identified: `key` (of the store), `file` (a key of the keys file), `token`,
            `session` (the cookie of a key or a token), or `open` (nobody had to say).
        until: microseconds since 1970 when it ends, or None.
        signer: identifies the key that signed the token, also that of a session. Empty for others.
    """

    key: int | None
    scopes: frozenset[str]
    types: tuple[str, ...] = ()
    name: str = ""
    source: Literal["key", "file", "token", "session", "open"] = "key"
    until: int | None = None
    signer: str = ""

    def may(self, scope: str) -> bool:
        """Return whether `scope` is granted. `admin` grants all scopes."""
        return scope in self.scopes or "admin" in self.scopes

    @property
    def allowed(self) -> Matcher | None:
        """Return the predicate over the event types that it concerns. None: it concerns all."""
        return _matcher(self.types) if self.types else None

    def sees(self, type_: str) -> bool:
        """Return whether it concerns events of a type."""
        return not self.types or _matcher(self.types)(type_)

    @property
    def actor(self) -> str:
        """Who it is, for the audit log: `key:3`, `file:1099511627776`, `token:SUBJECT` or `open`."""
        if self.source == "open":
            return "open"
        if self.signer:
            return f"token:{self.name}"
        return f"{'file' if self.source == 'file' else 'key'}:{self.key}"  # also of its sessions

    @property
    def credential(self) -> str:
        """What it was identified by, for messages."""
        return "token" if self.signer else "API key"


OPEN = Access(None, frozenset({"admin"}), source="open")
