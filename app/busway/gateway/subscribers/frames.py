"""Reading the frames of clients and writing those of the server: JSON objects told apart by `op`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import msgspec

from busway.domain import cursor
from busway.domain.cursor import CursorError, Position
from busway.domain.text import JSONError, check_name, decode_json
from busway.gateway.errors import BadCursor, BadRequest, BadSubscription, BuswayError, Conflict, NotFound

EARLIEST: Final = "earliest"
After = tuple[str, Position] | str | None
"""Where a subscription begins: None from now, EARLIEST, or a cursor as (epoch, position)."""

PONG = '{"op":"pong"}'

_SUBSCRIBE = frozenset(
    {"id", "types", "handlers", "kinds", "filter", "correlationid", "after", "durable", "shadow"}
)
_FIELDS: dict[str, frozenset[str]] = {
    "subscribe": _SUBSCRIBE,
    "unsubscribe": frozenset({"id"}),
    "publish": frozenset({"ref", "event"}),
    "ack": frozenset({"id", "cursor"}),
    "ping": frozenset(),
}
_LATER = {
    "shadow": "shadow replays are not built yet: leave 'shadow' out",
}


class UnknownSubscription(NotFound):
    """No subscription of this connection has that id."""

    code = "unknown_subscription"


class TooMany(Conflict):
    """The connection has as many subscriptions as it may have."""

    code = "too_many"


def read_object(text: str) -> dict[str, Any]:
    """Read a frame as a JSON object.

    Raises:
        BadRequest: it is none.
    """
    try:
        frame = decode_json(text.encode())
    except (JSONError, UnicodeEncodeError) as problem:
        raise BadRequest(str(problem).replace("the body", "the frame")) from None
    if not isinstance(frame, dict):
        raise BadRequest('a frame is a JSON object, such as {"op": "subscribe", "id": "s1"}')
    return frame


def check_fields(frame: dict[str, Any]) -> str:
    """Return the `op` of a frame if it is known and all its fields are.

    Raises:
        BadRequest: unknown `op` or field.
        BadSubscription: unknown field of a subscription.
    """
    op = frame.get("op")
    known = _FIELDS.get(op) if isinstance(op, str) else None
    if known is None:
        raise BadRequest(f"'op' is one of {', '.join(_FIELDS)}")
    assert isinstance(op, str)  # noqa: S101 (for the type checker)
    unknown = sorted(frame.keys() - known - {"op"})
    if unknown:
        refusal = BadSubscription if op == "subscribe" else BadRequest
        raise refusal(f"{op!r} has no field {unknown[0]!r}: remove it")
    return op


def check_built(fields: Mapping[str, Any]) -> None:
    """Refuse fields of a subscription that the contract names and this version does not have.

    Raises:
        BadSubscription: one of them asks for something.
    """
    for name, detail in _LATER.items():
        if fields.get(name) not in (None, False, []):
            raise BadSubscription(detail)


def read_id(value: Any) -> str:
    """Return the id of a subscription.

    Raises:
        BadSubscription: it is not 1 to 255 characters of text.
    """
    if not isinstance(value, str):
        raise BadSubscription("'id' names the subscription: text of 1 to 255 characters, such as \"s1\"")
    try:
        return check_name(value, "a subscription's id")
    except ValueError as problem:
        raise BadSubscription(str(problem)) from None


def read_durable(value: Any) -> str | None:
    """Return the name of a durable subscription, None if it is not to be one.

    Raises:
        BadSubscription: it is not 1 to 255 characters of text.
    """
    if value is None:
        return None
    if not isinstance(value, str):
        raise BadSubscription("'durable' is the name under which the place is kept, text, or null")
    try:
        return check_name(value, "a durable name")
    except ValueError as problem:
        raise BadSubscription(str(problem)) from None


def read_ref(value: Any) -> str | int | None:
    """Return the `ref` of a publish.

    Raises:
        BadRequest: it is neither null, a whole number nor at most 255 characters of text.
    """
    if value is None or echo(value) is not None:
        return echo(value)
    raise BadRequest("'ref' is text of at most 255 characters, a whole number or null")


def read_after(value: Any) -> After:
    """Read the `after` of a subscription.

    Raises:
        BadCursor: it is neither null, "latest", "earliest" nor a cursor.
    """
    if value is None or value == "latest":
        return None
    if value == EARLIEST:
        return EARLIEST
    try:
        return cursor.decode(value if isinstance(value, str) else "")
    except CursorError as problem:
        raise BadCursor(f'{problem}; \'after\' may also be null, "latest" or "earliest"') from None


def read_place(value: Any, epoch: str) -> Position:
    """Read the `cursor` of an `ack` for the log `epoch`.

    Raises:
        BadCursor: it is no cursor, or one of another log.
    """
    try:
        of, position = cursor.decode(value if isinstance(value, str) else "")
    except CursorError as problem:
        raise BadCursor(str(problem)) from None
    if of != epoch:
        raise BadCursor("that cursor is of another log: acknowledge one that you were sent")
    return position


def read_event(frame: dict[str, Any], text: str) -> bytes:
    """Return the JSON text of a publish frame's event, as it was sent.

    Raises:
        Invalid: it is no object.
    """
    if not isinstance(frame.get("event"), dict):
        raise BadEvent('\'event\' is an object, such as {"type": "order.created", "data": {}}')
    return bytes(msgspec.json.decode(text, type=_PublishFrame).event)


class BadEvent(BadRequest):
    """The event of a publish frame is no event."""

    code = "bad_event"


class _PublishFrame(msgspec.Struct):
    event: msgspec.Raw


def echo(value: Any) -> str | int | None:
    """Return an `id` or `ref` as it may stand in an answer, None if it is none."""
    if isinstance(value, str):
        return value if len(value) <= 255 else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def write(frame: Mapping[str, Any]) -> str:
    """Write a frame."""
    return msgspec.json.encode(frame).decode()


def error(problem: BuswayError, *, name: Any = None, ref: Any = None) -> str:
    """Write an `error` frame for the subscription `name`; both are given back if they are such."""
    named = echo(name) if isinstance(name, str) else None
    return write(
        {"op": "error", "id": named, "ref": echo(ref), "code": problem.code, "detail": problem.detail}
    )
