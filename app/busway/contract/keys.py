"""API keys and tickets."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec
from msgspec import UNSET, Meta, UnsetType

from busway.contract.scalars import Page, Time, one_of
from busway.domain import times

Scope = Literal["publish", "subscribe", "handlers:read", "handlers:write", "admin"]
SCOPES: tuple[str, ...] = get_args(Scope)


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
            None,
            Meta(
                description="Not available yet.",
                extra={"rule": lambda _: "types is not supported yet: remove it"},
            ),
        ]
        | UnsetType
    ) = UNSET


class Key(msgspec.Struct, kw_only=True):
    """A key without its secret."""

    id: int
    name: str
    scopes: list[Annotated[str, one_of(SCOPES)]]
    created_at: Time
    expires_at: Annotated[Time | None, Meta(description="Null: it does not expire.")]
    revoked_at: Annotated[Time | None, Meta(description="Null: it is not revoked.")]


class NewKey(Key, kw_only=True):
    """A key with its secret, which is shown only once."""

    key: Annotated[str, Meta(description="For `Authorization: Bearer KEY`.", examples=["bw_1_…"])]


class KeyList(Page[Key]):
    """A page of keys, by number."""


class Ticket(msgspec.Struct):
    """A ticket for one connection."""

    ticket: Annotated[str, Meta(description="For `/v1/subscribe?ticket=…`. Valid once.")]
    expires_at: Time
