"""Decodes the frames of clients and encodes those of the server: JSON objects, distinguished by `op`."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any, Final

import msgspec

from busway.contract import checking
from busway.contract.frames import (
    CLIENT_FRAMES,
    AckFrame,
    AuthenticateFrame,
    ErrorFrame,
    PingFrame,
    PongFrame,
    PublishFrame,
    SubscribeFrame,
    UnsubscribeFrame,
)
from busway.contract.problems import BadField
from busway.domain import cursor
from busway.domain.cursor import CursorError, Position
from busway.domain.text import JSONError, decode_json
from busway.gateway.errors import (
    BadCursor,
    BadFilter,
    BadPattern,
    BadRequest,
    BadSubscription,
    BuswayError,
    Conflict,
    NotFound,
)

EARLIEST: Final = "earliest"
After = tuple[str, Position] | str | None
"""Where a subscription begins: None (now), EARLIEST, or a cursor as (epoch, position)."""
ClientFrame = UnsubscribeFrame | AckFrame | AuthenticateFrame | PingFrame

_LARGE = 524_288  # characters
_encode = msgspec.json.Encoder().encode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode

_SHAPES: dict[str, type[ClientFrame]] = {
    "unsubscribe": UnsubscribeFrame,
    "ack": AckFrame,
    "authenticate": AuthenticateFrame,
    "ping": PingFrame,
}
_OPS = [str(frame.__struct_config__.tag) for frame in CLIENT_FRAMES]
_PUBLISH = frozenset({"op", *PublishFrame.__struct_fields__})
_REFUSALS = {"types": BadPattern, "filter": BadFilter, "after": BadCursor, "cursor": BadCursor}


class UnknownSubscription(NotFound):
    """This connection has no subscription with that id."""

    code = "unknown_subscription"


class TooMany(Conflict):
    """The limit for subscriptions of a connection, or for durable names, is reached."""

    code = "too_many"


def read_object(text: str) -> dict[str, Any]:
    """Decode a frame as a JSON object. The event of a large one is an empty object.

    Raises:
        BadRequest: it is not one, or too large.
    """
    try:
        frame = decode_json(text.encode()) if len(text) <= _LARGE else _read_large(text)
    except (JSONError, UnicodeEncodeError) as problem:
        raise BadRequest(str(problem).replace("the body", "the frame")) from None
    if not isinstance(frame, dict):
        raise BadRequest('a frame must be a JSON object, such as {"op": "subscribe", "id": "s1"}')
    return frame


def _read_large(text: str) -> Any:
    """Decode a large frame, which must be a `publish`, without its event: who publishes it decodes it."""
    try:
        members = _members(text)
    except (msgspec.MsgspecError, RecursionError) as problem:
        raise JSONError(f"the body is not JSON: {problem}") from None
    event = bytes(members.pop("event", b""))
    size = sum(map(len, members.values()))
    if not event.startswith(b"{") or size > _LARGE:
        raise BadRequest(f"a frame without an event has at most {_LARGE} characters: send less")
    return {**{name: decode_json(bytes(value)) for name, value in members.items()}, "event": {}}


def read_frame(frame: dict[str, Any]) -> ClientFrame:
    """Check a frame that is neither a `subscribe` nor a `publish`.

    Raises:
        BadRequest: its `op` or a field is unknown.
        BadCursor, BadSubscription: a field is invalid.
    """
    op = frame.get("op")
    shape = _SHAPES.get(op) if isinstance(op, str) else None
    if shape is None:
        raise BadRequest(f"'op' must be one of {', '.join(_OPS)}")
    try:
        return checking.read(frame, shape, ("frame",))
    except checking.Mismatch as problem:
        raise refusal(problem.fields, known=shape.__struct_fields__) from None


def read_subscription(fields: Mapping[str, Any]) -> SubscribeFrame:
    """Check the fields of a `subscribe` frame.

    Raises:
        BadPattern, BadFilter, BadCursor, BadSubscription: a field is invalid.
    """
    try:
        return checking.read({**fields, "op": "subscribe"}, SubscribeFrame, ("frame",))
    except checking.Mismatch as problem:
        raise refusal(problem.fields) from None


def refusal(fields: list[BadField], known: Container[str] | None = None) -> BuswayError:
    """Return the error for invalid fields. The first field decides its type.

    Args:
        fields: the invalid fields.
        known: the fields that the frame may have, unless it is a `subscribe`. Others give a BadRequest.
    """
    unknown = [field for field in fields if known is not None and field.loc[1] not in known]
    if unknown:
        return BadRequest.of(unknown)
    return _REFUSALS.get(str(fields[0].loc[1]), BadSubscription).of(fields)


def read_ref(frame: dict[str, Any]) -> str | int | None:
    """Return the `ref` of a publish frame. The event is not decoded.

    Raises:
        BadRequest: it is invalid, or the frame has an unknown field.
    """
    unknown = sorted(frame.keys() - _PUBLISH)
    if unknown:
        raise BadRequest(f"'publish' has no field {unknown[0]!r}: remove it")
    value = frame.get("ref")
    if value is None or echo(value) is not None:
        return echo(value)
    raise BadRequest("'ref' must be a string of at most 255 characters, an integer or null")


def read_after(value: str | None) -> After:
    """Decode the `after` of a subscription.

    Raises:
        BadCursor: it is not null, "latest", "earliest" or a cursor.
    """
    if value is None or value == "latest":
        return None
    if value == EARLIEST:
        return EARLIEST
    try:
        return cursor.decode(value)
    except CursorError as problem:
        raise BadCursor(f'{problem}; \'after\' may also be null, "latest" or "earliest"') from None


def read_position(value: str, epoch: str) -> Position:
    """Decode the `cursor` of an `ack` for the log `epoch`.

    Raises:
        BadCursor: it is not a cursor, or it belongs to another log.
    """
    try:
        of, position = cursor.decode(value)
    except CursorError as problem:
        raise BadCursor(str(problem)) from None
    if of != epoch:
        raise BadCursor("the cursor belongs to another log: acknowledge a cursor that you received")
    return position


def read_event(frame: dict[str, Any], text: str) -> bytes:
    """Return the JSON text of a publish frame's event, unchanged.

    Raises:
        BadEvent: it is not an object.
    """
    if not isinstance(frame.get("event"), dict):
        raise BadEvent('\'event\' must be an object, such as {"type": "order.created", "data": {}}')
    return bytes(msgspec.json.decode(text, type=_PublishFrame).event)


class BadEvent(BadRequest):
    """The event of a publish frame is invalid."""

    code = "bad_event"


class _PublishFrame(msgspec.Struct):
    event: msgspec.Raw


def echo(value: Any) -> str | int | None:
    """Return an `id` or `ref` for an answer, or None if it is invalid."""
    if isinstance(value, str):
        return value if len(value) <= 255 else None
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def write(frame: msgspec.Struct) -> str:
    """Encode a frame."""
    return _encode(frame).decode()


PONG = write(PongFrame())


def error(problem: BuswayError, *, name: Any = None, ref: Any = None) -> str:
    """Encode an `error` frame. It repeats the id `name` and `ref` if they are valid."""
    named = name if isinstance(name, str) and echo(name) is not None else None
    return write(ErrorFrame(id=named, ref=echo(ref), code=problem.code, detail=problem.detail))
