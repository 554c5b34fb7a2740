"""The frames of the WebSocket `/v1/subscribe`, and the events of the stream `/v1/subscribe/sse`."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from busway.contract.events import EventIn, Receipt
from busway.contract.filters import Filter
from busway.contract.results import EXAMPLE as ITEM
from busway.contract.results import Item
from busway.contract.scalars import CURSOR, OLDEST, Cursor, Name, Time, one_of
from busway.domain import cursor
from busway.domain.filter import FilterError, compile_filter
from busway.domain.handler import NAME
from busway.domain.pattern import PatternError, check_pattern
from busway.domain.result import KINDS
from busway.domain.text import check_name

MAX_VALUES = 100
"""Maximum number of types, handlers or kinds of one subscription."""

CODES = (
    "bad_frame", "bad_subscription", "bad_pattern", "bad_filter", "bad_cursor", "bad_event",
    "unknown_subscription", "not_allowed", "too_many", "unavailable",
)  # fmt: skip
CLOSES = {
    1001: "going away: connect again with your cursor",
    1008: "not allowed",
    1009: "a frame is too large",
    1011: "internal error: connect again with your cursor",
    1012: "the gateway is restarting: connect again with your cursor",
    1013: "try again later",
    4400: "bad first message or query string",
    4401: "the API key or token is missing, revoked or expired, or the ticket is unknown, used or expired",
    4408: "no progress for 60 s: read faster, and connect again with your cursor",
}
"""The close codes of the WebSocket. The `close` event of the stream has the same codes."""


def _texts(form: str) -> Any:
    def check(value: object) -> str | None:
        if not isinstance(value, list) or not all(isinstance(text, str) for text in value):
            return f"expected {form}"
        if len(value) > MAX_VALUES:
            return f"too many values: use at most {MAX_VALUES}, or several subscriptions"
        return None

    return check


_patterns = _texts('a list of type patterns, such as ["order.*"]')
_handlers = _texts('a list of handler names, such as ["invoice"]')
_kinds = _texts(f"a list of {', '.join(sorted(KINDS))}")


def _check_types(value: Any) -> str | None:
    problem: str | None = _patterns(value)
    if problem is not None:
        return problem
    try:
        for pattern in value:
            check_pattern(pattern)
    except PatternError as bad:
        return str(bad)
    return None


def _check_handlers(value: Any) -> str | None:
    problem: str | None = _handlers(value)
    for name in value if problem is None else ():
        if not NAME.fullmatch(name):
            return f"{name!r} is not a handler name: use 1 to 63 of a-z, 0-9, '-' and '_'"
    return problem


def _check_kinds(value: Any) -> str | None:
    problem: str | None = _kinds(value)
    for kind in value if problem is None else ():
        if kind not in KINDS:
            return f"{kind!r} is not a kind of result: use {', '.join(sorted(KINDS))}"
    return problem


def _check_filter(value: Any) -> str | None:
    try:
        compile_filter(value)
    except FilterError as problem:
        return str(problem)
    return None


def _check_format(value: object) -> str | None:
    return None if value == "cloudevents" else 'format must be "cloudevents" or absent'


def _text(what: str) -> Meta:
    """Return a rule that checks a name. `what` describes it, with its article."""

    def check(value: object) -> str | None:
        if not isinstance(value, str):
            return f"{what} must be a string of 1 to 255 characters"
        try:
            check_name(value, what)
        except ValueError as problem:
            return str(problem)
        return None

    return Meta(extra={"rule": check})


def _check_after(value: object) -> str | None:
    if value in ("latest", "earliest"):
        return None
    try:
        cursor.decode(value if isinstance(value, str) else "")
    except cursor.CursorError as problem:
        return f'{problem}; \'after\' may also be null, "latest" or "earliest"'
    return None


Types = Annotated[
    list[str],
    Meta(
        max_length=MAX_VALUES,
        description="Type patterns of the results' events. Empty: all types.",
        examples=[["order.*"]],
        extra={"rule": _check_types},
    ),
]
Handlers = Annotated[
    list[str],
    Meta(
        max_length=MAX_VALUES,
        description="Names of handlers. Empty: all handlers.",
        extra={"rule": _check_handlers},
    ),
]
Kinds = Annotated[
    list[Annotated[str, one_of(sorted(KINDS))]],
    Meta(
        max_length=MAX_VALUES,
        description="Kinds of result, or `completed`: results that have `completes`. Empty: all kinds.",
        extra={"rule": _check_kinds},
    ),
]
CorrelationId = Annotated[
    Name, _text("a correlationid"), Meta(description="Only results of events with this `correlationid`.")
]
After = Annotated[
    str,
    Meta(
        description="`latest` (the default): from now on. `earliest`: from the oldest available result. "
        "A cursor: all results after it.",
        extra={"rule": _check_after},
    ),
]
Durable = Annotated[
    Name,
    _text("a durable name"),
    Meta(description="The name under which the gateway stores the acknowledged cursor."),
]
SubscriptionId = Annotated[
    Name,
    _text("a subscription's id"),
    Meta(description="Identifies the subscription on this connection.", examples=["s1"]),
]
Ref = Annotated[
    Annotated[str, Meta(max_length=255)] | int | None, Meta(description="Repeated in the answer.")
]


class Selects(msgspec.Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The results to select. A result must match all fields."""

    types: Types | None = None
    handlers: Handlers | None = None
    kinds: Kinds | None = None
    filter: Annotated[
        Filter | None,
        Meta(
            description="Only results of events whose attributes and payload match.",
            extra={"rule": _check_filter},
        ),
    ] = None
    correlationid: CorrelationId | None = None
    shadow: Annotated[
        bool | None,
        Meta(
            description="Whether to add the results of shadow replays, which no other subscription gets. "
            "Their `replay` is the number of a replay whose `shadow` is true."
        ),
    ] = None


Format = Annotated[
    str,
    one_of(["cloudevents"]),
    Meta(
        description="`cloudevents`: items are CloudEvents. Their type is `busway.result.` and the kind.",
        extra={"rule": _check_format},
    ),
]


class SubscribeFrame(Selects, kw_only=True, tag_field="op", tag="subscribe"):
    """Open a subscription. The gateway answers with `subscribed`, then sends `results`."""

    EXAMPLE: ClassVar[dict[str, Any]] = {
        "id": "s1",
        "types": ["order.*"],
        "filter": {"all": [{"prefix": {"subject": "eu-"}}, {"exact": {"data.customer.country": "NO"}}]},
        "after": "latest",
    }

    id: SubscriptionId
    after: After | None = None
    durable: Durable | None = None
    format: Format | None = None


class UnsubscribeFrame(
    msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag_field="op", tag="unsubscribe"
):
    """End a subscription. The gateway answers with `unsubscribed`."""

    EXAMPLE: ClassVar[dict[str, Any]] = {"id": "s1"}

    id: SubscriptionId


class PublishFrame(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag_field="op", tag="publish"):
    """Publish an event. The gateway answers with `published`, or with an `error` with the same `ref`.

    If the connection ends before the answer, the event may be stored or not, also when the frame was sent
    completely. Publish it again with the same `source` and `id`: it is stored once.
    """

    EXAMPLE: ClassVar[dict[str, Any]] = {"ref": "r1", "event": {"type": "order.created", "data": {"n": 7}}}

    ref: Ref = None
    event: Annotated[EventIn, Meta(description="As in `POST /v1/events`.")]


class AckFrame(msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag_field="op", tag="ack"):
    """Acknowledge everything up to a cursor. A durable subscription resumes after it."""

    EXAMPLE: ClassVar[dict[str, Any]] = {"id": "s1", "cursor": CURSOR}

    id: SubscriptionId
    cursor: Annotated[Cursor, Meta(description="The cursor of an item or of a `results` frame.")]


class AuthenticateFrame(
    msgspec.Struct, kw_only=True, forbid_unknown_fields=True, tag_field="op", tag="authenticate"
):
    """Go on with a fresh token. The gateway answers with `authenticated`, or with an `error`.

    The connection ends when its token does. A fresh token of the same subject replaces it: its scopes and
    type patterns hold for what follows. An open subscription keeps the type patterns that it was opened
    with, so no token widens it. If the fresh token does not have all of them, or lacks the scope
    `subscribe`, the subscription ends with an `error` with the code `not_allowed`. If the fresh token is
    refused, the connection goes on with the one that it has.
    """

    EXAMPLE: ClassVar[dict[str, Any]] = {"ref": "r2", "token": "eyJhbGciOiJFUzI1NiIsImtpZCI6IjEifQ.eyJ…"}

    ref: Ref = None
    token: Annotated[str, Meta(description="A JSON Web Token. An API key is taken if it is the same one.")]


class PingFrame(msgspec.Struct, forbid_unknown_fields=True, tag_field="op", tag="ping"):
    """Request a `pong`."""

    EXAMPLE: ClassVar[dict[str, Any]] = {}


CLIENT_FRAMES = (SubscribeFrame, UnsubscribeFrame, PublishFrame, AckFrame, AuthenticateFrame, PingFrame)


class _Position(msgspec.Struct, kw_only=True):
    cursor: Annotated[Cursor, Meta(description="Where the subscription begins.")]
    recovered: Annotated[
        bool,
        Meta(
            description="False: results after `after` are no longer available; results are live from now on."
        ),
    ]
    oldest: Annotated[Cursor, Meta(description="The oldest cursor to resume from.", examples=[OLDEST])]


class SubscribedFrame(_Position, kw_only=True, tag_field="op", tag="subscribed"):
    """The subscription is open. Sent before its results."""

    EXAMPLE: ClassVar[dict[str, Any]] = {"id": "s1", "cursor": CURSOR, "recovered": True, "oldest": OLDEST}

    id: str


class UnsubscribedFrame(msgspec.Struct, kw_only=True, tag_field="op", tag="unsubscribed"):
    """The subscription has ended."""

    EXAMPLE: ClassVar[dict[str, Any]] = {"id": "s1"}

    id: str


class ResultsFrame(msgspec.Struct, kw_only=True, tag_field="op", tag="results"):
    """Results in log order. A frame without items moves the cursor past others, at most once a second."""

    EXAMPLE: ClassVar[dict[str, Any]] = {"id": "s1", "items": [ITEM], "cursor": CURSOR}

    id: str
    items: list[Item]
    cursor: Annotated[Cursor, Meta(description="Where to resume.")]


class PublishedFrame(Receipt, frozen=True, kw_only=True, tag_field="op", tag="published"):
    """The event is stored and synced to disk."""

    EXAMPLE: ClassVar[dict[str, Any]] = {
        "ref": "r1",
        "seq": 41,
        "id": ITEM["event"]["id"],
        "source": "/",
        "type": "order.created",
        "runs": 1,
        "duplicate": False,
    }

    ref: Ref


class AuthenticatedFrame(msgspec.Struct, kw_only=True, tag_field="op", tag="authenticated"):
    """The connection has the rights of the token, and ends with it."""

    EXAMPLE: ClassVar[dict[str, Any]] = {"ref": "r2", "expires_at": ITEM["time"]}

    ref: Ref
    expires_at: Annotated[Time | None, Meta(description="When the connection ends. Null: not by itself.")]


class ErrorFrame(msgspec.Struct, kw_only=True, tag_field="op", tag="error"):
    """An error, for example an invalid frame. The connection stays open if possible."""

    EXAMPLE: ClassVar[dict[str, Any]] = {
        "id": "s1",
        "ref": None,
        "code": "bad_subscription",
        "detail": "the id 's1' is in use: use another id or unsubscribe it first",
    }

    id: Annotated[str | None, Meta(description="The subscription that the error concerns.")]
    ref: Ref
    code: Annotated[str, one_of(CODES)]
    detail: str


class PongFrame(msgspec.Struct, tag_field="op", tag="pong"):
    """The answer to `ping`. Acknowledgements sent before the `ping` are synced to disk."""

    EXAMPLE: ClassVar[dict[str, Any]] = {}


FRAME_EVENT = "busway."
"""How the types of frames as CloudEvents begin."""


class FrameEvent(msgspec.Struct):
    """A frame as a CloudEvent 1.0, for the subprotocol `cloudevents.json`. It is the event's `data`."""

    EXAMPLE: ClassVar[dict[str, Any]] = {
        "id": ITEM["event"]["id"],
        "type": "busway.subscribed",
        "time": ITEM["time"],
        "data": {"op": "subscribed", **SubscribedFrame.EXAMPLE},
        "specversion": "1.0",
        "source": "/busway",
        "datacontenttype": "application/json",
    }

    id: str
    type: Annotated[
        str,
        Meta(description="`busway.` and the `op` of the frame. `busway.moved`: `results` without items."),
    ]
    time: Time
    data: Annotated[Any, Meta(description="The frame.")]
    specversion: Annotated[str, one_of(["1.0"])] = "1.0"
    source: Annotated[str, one_of(["/busway"])] = "/busway"
    datacontenttype: Annotated[str, one_of(["application/json"])] = "application/json"


SERVER_FRAMES = (
    SubscribedFrame,
    UnsubscribedFrame,
    ResultsFrame,
    PublishedFrame,
    AuthenticatedFrame,
    ErrorFrame,
    PongFrame,
)
ServerFrame = (
    SubscribedFrame
    | UnsubscribedFrame
    | ResultsFrame
    | PublishedFrame
    | AuthenticatedFrame
    | ErrorFrame
    | PongFrame
)


class Query(msgspec.Struct, kw_only=True):
    """A subscription in the query string of `/v1/subscribe`, where its id is `default`, or of the stream."""

    types: Types | UnsetType = UNSET
    handlers: Handlers | UnsetType = UNSET
    kinds: Kinds | UnsetType = UNSET
    filter: Annotated[str, Meta(description="A filter as URL-encoded JSON.")] | UnsetType = UNSET
    correlationid: CorrelationId | UnsetType = UNSET
    shadow: Annotated[bool, Meta(description="`true` adds the results of shadow replays.")] | UnsetType = (
        UNSET
    )
    after: After | UnsetType = UNSET
    durable: Durable | UnsetType = UNSET
    format: Format | UnsetType = UNSET
    ticket: (
        Annotated[
            str,
            Meta(description="A ticket from `POST /v1/tickets`, instead of an API key. Valid once."),
        ]
        | UnsetType
    ) = UNSET


class SubscribedEvent(_Position, kw_only=True):
    """The stream is open. Sent before its items."""

    EXAMPLE: ClassVar[dict[str, Any]] = {"cursor": CURSOR, "recovered": True, "oldest": OLDEST}


class GapEvent(msgspec.Struct):
    """Results after the requested cursor are no longer available. The stream is live from now on."""

    EXAMPLE: ClassVar[dict[str, Any]] = {
        "detail": "the results after this cursor were deleted",
        "cursor": CURSOR,
        "oldest": OLDEST,
    }

    detail: str
    cursor: Annotated[Cursor, Meta(description="Where the stream begins.")]
    oldest: Annotated[Cursor, Meta(description="The oldest cursor to resume from.", examples=[OLDEST])]


class MovedEvent(msgspec.Struct):
    """The cursor passed results that do not match."""

    EXAMPLE: ClassVar[dict[str, Any]] = {"cursor": CURSOR}

    cursor: Cursor


class CloseEvent(msgspec.Struct):
    """The stream ends."""

    EXAMPLE: ClassVar[dict[str, Any]] = {
        "code": 1012,
        "reason": "the gateway is restarting: connect again with your cursor",
    }

    code: Annotated[int, Meta(extra_json_schema={"enum": list(CLOSES)})]
    reason: str
