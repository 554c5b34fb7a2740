"""Published events, receipts and stored events."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from busway.contract.results import Item
from busway.contract.runs import Run
from busway.contract.scalars import (
    CONTROL,
    EVENT_ID,
    ONE_VALUE,
    Base64,
    Cursor,
    Name,
    Page,
    Seq,
    Time,
    one_of,
)

_NO_ATTRIBUTE = {
    "anyOf": [{"type": ["array", "object", "null"]}, {"type": "number", "not": {"type": "integer"}}]
}
_EXTENSIONS: dict[str, Any] = {
    # Not {"type": [...]}: TypeScript would apply it to `data` too.
    "additionalProperties": {
        "description": "An extension attribute: a string, an integer or a boolean.",
        "not": _NO_ATTRIBUTE,
    }
}
SCHEDULED: dict[str, Any] = {
    **_EXTENSIONS,
    "propertyNames": {"pattern": "^([a-z0-9]{1,20}|data_base64)$"},
    "not": {
        "anyOf": [
            {"required": ["data", "data_base64"]},
            *(
                {"required": [name]}
                for name in ("id", "source", "time", "deliverat", "expirytime", "seq", "runs")
            ),
        ]
    },
}
"""The schema of an event whose id, source and time a schedule sets."""
_Data = Annotated[Any, Meta(description="The payload: any JSON.", examples=[{"item": "book", "quantity": 2}])]


class EventIn(msgspec.Struct, kw_only=True):
    """An event to publish, a CloudEvent 1.0. Only `type` is required.

    Other fields are extension attributes. Their names have 1 to 20 characters of a-z and 0-9. Their values
    are strings, integers or booleans.
    """

    SCHEMA: ClassVar[dict[str, Any]] = {
        **_EXTENSIONS,
        "propertyNames": {"pattern": "^([a-z0-9]{1,20}|data_base64)$"},
        "not": {
            "anyOf": [{"required": ["data", "data_base64"]}, {"required": ["seq"]}, {"required": ["runs"]}]
        },
    }

    type: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=255,
            pattern=rf"^[^\s*{CONTROL}]*$",
            description="The type: segments separated by dots, without white space or `*`.",
            examples=["order.created"],
        ),
    ]
    data: _Data | UnsetType = UNSET
    data_base64: Base64 | UnsetType = UNSET
    id: (
        Annotated[
            Name | None, Meta(description="`source` and `id` together are unique. The default is a UUIDv7.")
        ]
        | UnsetType
    ) = UNSET
    source: (
        Annotated[
            Annotated[str, Meta(min_length=1, max_length=1024, pattern=f"^[^{CONTROL}]*$")] | None,
            Meta(description="The source of the event. The default is `/`."),
        ]
        | UnsetType
    ) = UNSET
    subject: Annotated[Name | None, Meta(description="The subject of the event.")] | UnsetType = UNSET
    time: (
        Annotated[Time | None, Meta(description="The time of the event, RFC 3339. The default is now.")]
        | UnsetType
    ) = UNSET
    datacontenttype: (
        Annotated[Name | None, Meta(description="The media type of the payload.")] | UnsetType
    ) = UNSET
    specversion: Annotated[Literal["1.0"], Meta(description="The version of CloudEvents.")] | UnsetType = (
        UNSET
    )
    priority: (
        Annotated[int, Meta(ge=0, le=9, description="Runs with priority 9 start first. The default is 4.")]
        | UnsetType
    ) = UNSET
    deliverat: (
        Annotated[Time, Meta(description="Runs of this event do not start before this time. RFC 3339.")]
        | UnsetType
    ) = UNSET
    expirytime: (
        Annotated[Time, Meta(description="Runs that have not started by this time are cancelled. RFC 3339.")]
        | UnsetType
    ) = UNSET
    partitionkey: (
        Annotated[
            Name, Meta(description="Ordered handlers run the events of one partition key one after another.")
        ]
        | UnsetType
    ) = UNSET
    correlationid: (
        Annotated[Name, Meta(description="Groups related events. The default is the id of the root event.")]
        | UnsetType
    ) = UNSET
    causationid: (
        Annotated[Name, Meta(description="The id of the event that caused this one.")] | UnsetType
    ) = UNSET


class StructuredEventIn(EventIn, kw_only=True):
    """An event to publish in structured mode of CloudEvents 1.0. A null means that the attribute is not set.

    Other fields are extension attributes, as in plain JSON. Integers have at most 32 bits.
    """

    SCHEMA: ClassVar[dict[str, Any]] = {
        **EventIn.SCHEMA,
        "required": ["specversion", "id", "source", "type"],
        "additionalProperties": {"description": "An extension attribute: a string, an integer or a boolean."},
    }


class Receipt(msgspec.Struct, frozen=True):
    """The receipt of an event that is stored and synced to disk."""

    seq: Seq
    id: Annotated[str, Meta(examples=[EVENT_ID])]
    source: Annotated[str, Meta(examples=["/"])]
    type: Annotated[str, Meta(examples=["order.created"])]
    runs: Annotated[
        int, Meta(description="The number of runs that the event starts; 0 for a duplicate.", examples=[1])
    ]
    duplicate: Annotated[
        bool,
        Meta(
            description="Whether (`source`, `id`) was already stored. Then `seq` is that of the first event."
        ),
    ]


class PendingReceipt(Receipt, frozen=True):
    """The receipt of an event whose runs have not ended in the time of `Prefer: wait`."""

    cursor: Annotated[
        Cursor,
        Meta(
            description="A place in the result log from before the event was published. "
            "`GET /v1/results?after=CURSOR` returns what follows, and the results of the event are among it."
        ),
    ]


class EventOutcome(msgspec.Struct):
    """An event whose runs have ended, as `Prefer: wait` asks for it."""

    event: Receipt
    results: Annotated[
        list[Item],
        Meta(
            description="The final result of each run that the event started (`succeeded`, `dead` or "
            "`cancelled`), in log order. Partial results, failed attempts that were followed by another, and "
            "results of events that handlers published are not among them."
        ),
    ]
    truncated: (
        Annotated[bool, Meta(description="There are more: an answer has at most 10,000 results and 8 MiB.")]
        | UnsetType
    ) = UNSET


class ReceiptList(msgspec.Struct):
    """The receipts of an array of events, in the same order."""

    items: list[Receipt]


class CloudEvent(msgspec.Struct, kw_only=True):
    """An event as a CloudEvent 1.0. Extension attributes are fields of the same object."""

    SCHEMA: ClassVar[dict[str, Any]] = {**_EXTENSIONS, **ONE_VALUE}

    specversion: Annotated[str, one_of(["1.0"])]
    id: Annotated[str, Meta(examples=[EVENT_ID])]
    source: Annotated[str, Meta(examples=["/"])]
    type: Annotated[str, Meta(examples=["order.created"])]
    subject: Annotated[str, Meta(description="Only if the event has one.")] | UnsetType = UNSET
    time: Time
    datacontenttype: Annotated[str, Meta(description="Only if the event has one.")] | UnsetType = UNSET
    correlationid: Annotated[
        str, Meta(description="Groups related events. The default is the id of the root event.")
    ]
    data: _Data | UnsetType = UNSET
    data_base64: Base64 | UnsetType = UNSET


class StructuredEvent(CloudEvent, kw_only=True):
    """An event in structured mode of CloudEvents 1.0. It has no `data` if it was published without."""

    SCHEMA: ClassVar[dict[str, Any]] = {**_EXTENSIONS, "not": {"required": ["data", "data_base64"]}}


class Event(CloudEvent, kw_only=True):
    """A stored event."""

    seq: Seq


class EventList(Page[Event]):
    """A page of events, newest first."""


class EventDetail(Event, kw_only=True):
    """A stored event with its runs."""

    runs: list[Run]
    truncated: (
        Annotated[
            bool, Meta(description="It has more runs than fit here. `GET /v1/runs?event=` lists all of them.")
        ]
        | UnsetType
    ) = UNSET


class Tree(msgspec.Struct):
    """An event, its runs, and the events that these runs published, as trees."""

    event: Event
    runs: list[Run]
    events: list[Tree]
    truncated: (
        Annotated[
            bool,
            Meta(description="On the root: the tree is larger than an answer may be; the rest is omitted."),
        ]
        | UnsetType
    ) = UNSET
