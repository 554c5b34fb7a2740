"""Scopes and type patterns, and the access that they grant."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from busway.domain.pattern import Matcher, matcher

_matcher = lru_cache(1_000)(matcher)


class Access(msgspec.Struct, frozen=True):
    """What a request may do.

    Attributes:
        key: the id of its API key, None while the gateway has no keys.
        scopes: what the key grants.
        types: patterns: it concerns only events of these types. Empty: of all types.
    """

    key: int | None
    scopes: frozenset[str]
    types: tuple[str, ...] = ()

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


OPEN = Access(None, frozenset({"admin"}))
