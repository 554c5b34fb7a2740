"""Scalar types that several shapes use."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta

T = TypeVar("T")

PREFIX = "#/components/schemas/"

TIME = "2026-01-31T12:00:00.000001Z"
CURSOR = "3f8a1c0de5b79264-41-9b2f00c7"
OLDEST = "3f8a1c0de5b79264-0-00000000"
EVENT_ID = "01980c8e-7a10-7c3e-9f0b-5c1d2e3f4a5b"

CONTROL = r"\u0000-\u001f\u007f-\u009f"  # control characters, as a range of a regular expression


def one_of(values: Iterable[str]) -> Meta:
    """Add an enumeration to the schema without checking it: a newer gateway may have more values."""
    return Meta(extra_json_schema={"enum": [str(value) for value in values]})


def any_of(*names: str) -> Meta:
    """Add alternatives to the schema that msgspec cannot distinguish in a union."""
    return Meta(extra_json_schema={"anyOf": [{"$ref": PREFIX + name} for name in names]})


Time = Annotated[str, Meta(extra_json_schema={"format": "date-time"}, description="RFC 3339, in UTC.")]
Cursor = Annotated[str, Meta(description="An opaque position in the result log.", examples=[CURSOR])]
Name = Annotated[str, Meta(min_length=1, max_length=255, pattern=f"^[^{CONTROL}]*$")]
"""A type, source, subject, id or similar name from a client."""

Seq = Annotated[int, Meta(description="The event's number in this gateway.", examples=[41])]

Base64 = Annotated[
    str,
    Meta(
        extra_json_schema={"contentEncoding": "base64"},
        description="A binary value in base64, instead of `data`.",
    ),
]
ONE_VALUE: dict[str, Any] = {"oneOf": [{"required": ["data"]}, {"required": ["data_base64"]}]}
"""The schema of an object that has either `data` or `data_base64`."""


class Page(msgspec.Struct, Generic[T]):
    """One page of a list."""

    items: list[T]
    next: Annotated[
        str | None, Meta(description="Send it as `after` to get the next page. Null on the last page.")
    ]
