"""Errors as RFC 9457 problem documents."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

MEDIA_TYPE = "application/problem+json"


class BadField(msgspec.Struct, frozen=True):
    """A field of the request that is not valid."""

    loc: Annotated[
        list[str | int],
        Meta(
            description="Where it is: `body`, `query` or `path`, then names and list positions.",
            examples=[["body", "events", 0]],
        ),
    ]
    msg: Annotated[
        str, Meta(description="What is wrong and what to write instead.", examples=["expected a string"])
    ]


class Problem(msgspec.Struct):
    """An error (RFC 9457)."""

    type: Annotated[
        str, Meta(description="A name for this kind of error.", examples=["urn:busway:problem:invalid"])
    ]
    title: Annotated[str, Meta(examples=["Invalid"])]
    status: Annotated[int, Meta(description="The HTTP status.", examples=[422])]
    detail: Annotated[
        str,
        Meta(description="What is wrong and what to do.", examples=["type: an event needs a type"]),
    ]
    errors: Annotated[list[BadField], Meta(description="The fields that are not valid.")] | UnsetType = UNSET


def field_path(loc: Sequence[str | int]) -> str:
    """Write where a field is, without the first part of `loc`: `[1].type`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc[1:]).lstrip(".")
