"""API keys and tickets."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec
from msgspec import UNSET, Meta, UnsetType

from busway.contract.scalars import Page, Time, one_of
from busway.domain import times
from busway.domain.pattern import PatternError, check_pattern

Scope = Literal["publish", "subscribe", "handlers:read", "handlers:write", "admin"]
SCOPES: tuple[str, ...] = get_args(Scope)
LIMITED_SCOPES = frozenset({"publish", "subscribe"})
"""The scopes that a key with type patterns may have. What the others allow concerns events of all types."""
MOST_TYPES = 100
OVERLAP = 3_600
"""Seconds for which a rotated key stays valid by default."""
MOST_OVERLAP = 30 * 86_400


def _check_key_name(value: object) -> str | None:
    if isinstance(value, str) and 1 <= len(value) <= 255 and value.isprintable():
        return None
    return "name must be a string of 1 to 255 printable characters that describes the owner of the key"


def _check_time(value: object) -> str | None:
    if not isinstance(value, str):
        return "expected an RFC 3339 time, such as 2027-01-31T12:00:00Z"
    try:
        times.from_text(value)
    except ValueError as problem:
        return str(problem)
    return None


def _check_types(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, list) or not 1 <= len(value) <= MOST_TYPES:
        return f"types must be a list of 1 to {MOST_TYPES} type patterns, such as order.**, or null for all"
    for pattern in value:
        if not isinstance(pattern, str):
            return "a type pattern must be a string, such as order.**"
        try:
            check_pattern(pattern)
        except PatternError as problem:
            return str(problem)
    return None


def _check_overlap(value: object) -> str | None:
    if type(value) is int and 0 <= value <= MOST_OVERLAP:
        return None
    return f"overlap must be a number of seconds from 0 to {MOST_OVERLAP} (30 days)"


class KeyIn(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A key to create."""

    name: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=255,
            description="The owner of the key.",
            examples=["shop"],
            extra={"rule": _check_key_name},
        ),
    ]
    scopes: Annotated[
        list[Scope], Meta(min_length=1, description="The rights of the key. `admin` includes all.")
    ]
    expires_at: (
        Annotated[
            Time | None, Meta(description="RFC 3339. Null: it does not expire.", extra={"rule": _check_time})
        ]
        | UnsetType
    ) = UNSET
    types: (
        Annotated[
            list[str] | None,
            Meta(
                description="Type patterns: the key publishes and reads only events of these types. Such a "
                "key has no other scopes than `publish` and `subscribe`. Null: events of all types.",
                extra={"rule": _check_types},
            ),
        ]
        | UnsetType
    ) = UNSET


class RotateIn(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """How to replace a key by a new one."""

    overlap: (
        Annotated[
            int,
            Meta(
                ge=0,
                le=MOST_OVERLAP,
                description="Seconds for which the old key stays valid, at most 30 days. It expires earlier "
                "if it would have without this.",
                examples=[3600],
                extra={"rule": _check_overlap},
            ),
        ]
        | UnsetType
    ) = UNSET
    expires_at: (
        Annotated[
            Time | None,
            Meta(
                description="RFC 3339. When the new key expires. Null: never. The default is when the old "
                "key would have expired.",
                extra={"rule": _check_time},
            ),
        ]
        | UnsetType
    ) = UNSET


class Key(msgspec.Struct, kw_only=True):
    """A key without its secret."""

    id: int
    name: str
    scopes: list[Annotated[str, one_of(SCOPES)]]
    types: Annotated[
        list[str] | None, Meta(description="The type patterns that limit the key. Null: it is not limited.")
    ]
    created_at: Time
    expires_at: Annotated[Time | None, Meta(description="Null: it does not expire.")]
    revoked_at: Annotated[Time | None, Meta(description="Null: it is not revoked.")]
    last_used_at: Annotated[
        Time | None,
        Meta(
            description="About when it was used last, to a minute or two. Null: it was not used yet, or "
            "`source` is `file`."
        ),
    ]
    source: Annotated[
        str,
        one_of(["database", "file"]),
        Meta(description="Where it is declared. Only `--keys-file` changes a key whose source is `file`."),
    ]


class NewKey(Key, kw_only=True):
    """A key with its secret, which is shown only once."""

    key: Annotated[str, Meta(description="For `Authorization: Bearer KEY`.", examples=["bw_1_…"])]


class KeyList(Page[Key]):
    """A page of keys, by number."""


class Ticket(msgspec.Struct):
    """A ticket for one connection."""

    ticket: Annotated[str, Meta(description="For `/v1/subscribe?ticket=…`. Valid once.")]
    expires_at: Time
