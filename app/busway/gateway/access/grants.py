"""What a token gives, inside a ticket or a session that replaces it."""

from __future__ import annotations

import msgspec

from busway.gateway.access.scopes import Access


class Grant(msgspec.Struct, array_like=True, frozen=True):
    """The fields of the access of a token, besides the number of its subject."""

    scopes: list[str]
    types: tuple[str, ...]
    name: str
    until: int | None
    signer: str


def grant(token: Access) -> Grant:
    """Return what a token gives."""
    return Grant(sorted(token.scopes), token.types, token.name, token.until, token.signer)


def granted(subject: int | None, given: Grant) -> Access:
    """Return the access of the subject with this number."""
    scopes = frozenset(given.scopes)
    return Access(subject, scopes, given.types, given.name, "token", given.until, given.signer)
