"""Items of the result log, and durable subscriptions."""

from __future__ import annotations

import base64
from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from busway.contract.runs import CountsByState
from busway.contract.scalars import CURSOR, EVENT_ID, ONE_VALUE, TIME, Base64, Cursor, Page, Time, one_of
from busway.domain.result import Kind, ResultEvent

EXAMPLE: dict[str, Any] = {
    "cursor": CURSOR,
    "kind": "succeeded",
    "event": {
        "seq": 41,
        "id": EVENT_ID,
        "type": "order.created",
        "source": "/",
        "subject": None,
        "correlationid": EVENT_ID,
    },
    "handler": "invoice",
    "revision": 1,
    "run": 41,
    "attempt": 1,
    "index": None,
    "data": {"pages": 1},
    "error": None,
    "completes": {"succeeded": 1},
    "replay": None,
    "time": TIME,
}


class ItemError(msgspec.Struct, frozen=True):
    """Why an attempt failed."""

    type: Annotated[str, Meta(description="The exception's type.", examples=["ValueError"])]
    message: str


class Item(msgspec.Struct, kw_only=True):
    """One result. Fields that do not apply are null."""

    SCHEMA: ClassVar[dict[str, Any]] = {**ONE_VALUE, "examples": [EXAMPLE]}

    cursor: Cursor
    kind: Annotated[
        str,
        one_of(Kind),
        Meta(
            description="`partial`: a value that the handler yielded, or progress. `succeeded`: the final "
            "value. `failed`: an attempt failed, another follows. `lost`: an attempt was lost with its "
            "worker or gateway, another follows. The partials of a failed or lost attempt do not count. "
            "`dead`: the last attempt failed. `cancelled`: the run was cancelled."
        ),
    ]
    event: ResultEvent
    handler: str
    revision: Annotated[int, Meta(description="The handler's revision that the attempt ran.")]
    run: int
    attempt: Annotated[int, Meta(description="Counted from 1.")]
    index: Annotated[int | None, Meta(description="Counts the partials of one attempt from 0.")]
    data: Annotated[
        Any, Meta(description='The value: any JSON. Progress is `{"progress": 0.5, "note": null}`.')
    ] = None
    data_base64: Base64 | UnsetType = UNSET
    error: ItemError | None
    completes: Annotated[
        CountsByState | None,
        Meta(
            description="Set on the last result of the root event's tree, when no run of it is unfinished: "
            "the number of runs by final state."
        ),
    ]
    replay: Annotated[
        int | None,
        Meta(description="The replay that ran the event again. Null: the event itself started the run."),
    ]
    time: Time

    def __post_init__(self) -> None:
        """Set `data` to the bytes of a binary value."""
        if self.data_base64 is not UNSET:
            self.data = base64.b64decode(self.data_base64)


ITEM_EVENT = "busway.result."
"""How the types of items as CloudEvents begin; the kind follows."""
_ITEM_EVENTS = [f"{ITEM_EVENT}{kind}" for kind in Kind]


class ItemEvent(msgspec.Struct, kw_only=True):
    """One result as a CloudEvent 1.0: an item of subscriptions with `"format": "cloudevents"`."""

    EXAMPLE: ClassVar[dict[str, Any]] = {
        "id": CURSOR,
        "specversion": "1.0",
        "source": "/handlers/invoice",
        "type": "busway.result.succeeded",
        "subject": "order.created",
        "time": TIME,
        "datacontenttype": "application/json",
        "correlationid": EVENT_ID,
        "causationid": EVENT_ID,
        "data": EXAMPLE,
    }

    id: Annotated[Cursor, Meta(description="The cursor of the result.")]
    specversion: Annotated[str, one_of(["1.0"])]
    source: Annotated[str, Meta(description="`/handlers/` and the name of the handler.")]
    type: Annotated[str, one_of(_ITEM_EVENTS)]
    subject: Annotated[str, Meta(description="The type of the result's event.")]
    time: Time
    datacontenttype: Annotated[str, one_of(["application/json"])]
    correlationid: str
    causationid: Annotated[str, Meta(description="The id of the result's event.")]
    data: Annotated[Item, Meta(description="The item as other subscriptions get it.")]


class ItemList(Page[Item]):
    """A page of results, oldest first."""

    cursor: Annotated[Cursor, Meta(description="The cursor to continue from, also when `next` is null.")]


class DurableSubscription(msgspec.Struct):
    """A durable subscription."""

    name: str
    cursor: Annotated[Cursor, Meta(description="The acknowledged cursor.")]
    behind: Annotated[
        int, Meta(description="The number of results after the cursor, whether they match or not.")
    ]
    connected: Annotated[bool, Meta(description="Whether a subscription uses the name now.")]
    created_at: Time
    acknowledged_at: Annotated[Time | None, Meta(description="Null: nothing is acknowledged yet.")]


class DurableSubscriptionList(Page[DurableSubscription]):
    """A page of durable subscriptions, by name."""
