"""Problem documents (RFC 9457)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from busway.contract.uploads import UploadResult

MEDIA_TYPE = "application/problem+json"


class BadField(msgspec.Struct, frozen=True):
    """An invalid field of the request."""

    loc: Annotated[
        list[str | int],
        Meta(
            description="The location: `body`, `query` or `path`, then names and list positions.",
            examples=[["body", "events", 0]],
        ),
    ]
    msg: Annotated[
        str, Meta(description="What is wrong and how to correct it.", examples=["expected a string"])
    ]


class Problem(msgspec.Struct):
    """An error (RFC 9457)."""

    type: Annotated[
        str, Meta(description="Identifies the kind of error.", examples=["urn:busway:problem:invalid"])
    ]
    title: Annotated[str, Meta(examples=["Invalid"])]
    status: Annotated[int, Meta(description="The HTTP status.", examples=[422])]
    detail: Annotated[
        str,
        Meta(description="What is wrong and what to do.", examples=["type: an event needs a type"]),
    ]
    errors: Annotated[list[BadField], Meta(description="The invalid fields.")] | UnsetType = UNSET
    upload: (
        Annotated[
            UploadResult,
            Meta(description="What became of the lines of an NDJSON upload that ended before its last line."),
        ]
        | UnsetType
    ) = UNSET


def field_path(loc: Sequence[str | int]) -> str:
    """Return the path of a field without the first part of `loc`, such as `[1].type`."""
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc[1:]).lstrip(".")
