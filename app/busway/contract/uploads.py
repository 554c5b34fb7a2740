"""Uploads of events as NDJSON, and how far they have come."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from busway.contract.scalars import Time

PRODUCER_ID = "^[A-Za-z0-9._~-]{1,128}$"
"""The pattern of a producer id: it can stand in a path."""


class RejectedLine(msgspec.Struct, frozen=True):
    """A line that is not stored."""

    line: Annotated[
        int,
        Meta(
            description="The number of the line, from 1, counted from line 0 of its producer.", examples=[7]
        ),
    ]
    detail: Annotated[str, Meta(description="What is wrong.", examples=["the line is not JSON: …"])]


class UploadResult(msgspec.Struct):
    """What became of the lines of an upload."""

    accepted: Annotated[int, Meta(description="The number of events that this upload stored.")] = 0
    duplicates: Annotated[
        int, Meta(description="The number of events that were not stored again: (`source`, `id`) existed.")
    ] = 0
    rejected: Annotated[
        list[RejectedLine], Meta(description="The first 1,000 lines that are not stored.", max_length=1000)
    ] = []
    rejected_total: Annotated[int, Meta(description="The number of lines that are not stored.")] = 0
    skipped: Annotated[
        int, Meta(description="The number of lines that an earlier upload with the same `Producer-Id` sent.")
    ] = 0
    lines: Annotated[
        int,
        Meta(
            description="The number of lines that are taken, blank ones included, from the first one of the "
            "producer. An upload that goes on begins with the line of this number, counted from 0."
        ),
    ] = 0


class Producer(msgspec.Struct):
    """How far the uploads with a `Producer-Id` have come."""

    id: Annotated[str, Meta(pattern=PRODUCER_ID, examples=["import-2027-01-15"])]
    lines: Annotated[
        int,
        Meta(description="The number of lines that are taken, blank ones included: the next `Producer-Seq`."),
    ]
    accepted: Annotated[int, Meta(description="The number of events that were stored.")]
    duplicates: Annotated[int, Meta(description="The number of events whose (`source`, `id`) existed.")]
    rejected_total: Annotated[int, Meta(description="The number of lines that were not stored.")]
    created_at: Time
    updated_at: Time
