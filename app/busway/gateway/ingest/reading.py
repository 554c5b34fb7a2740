"""From a request body to checked events. Payloads stay the bytes that came in."""

from __future__ import annotations

from typing import Any

import msgspec

from busway.domain.event import NewEvent
from busway.domain.event_fields import accept
from busway.domain.handler import FieldError
from busway.domain.text import JSONError, decode_json
from busway.gateway.errors import BadRequest, Invalid, TooLarge

MAX_EVENTS = 10_000


class _Payload(msgspec.Struct):
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decode_payload = msgspec.json.Decoder(_Payload).decode
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_split = msgspec.json.Decoder(list[msgspec.Raw]).decode


def read_events(body: bytes, now: int, max_event_bytes: int) -> tuple[list[NewEvent], bool]:
    """Read one event or an array of them; the second value tells whether it was an array.

    Args:
        body: the JSON text.
        now: microseconds since 1970.
        max_event_bytes: the most bytes that one event may have.

    Raises:
        BadRequest: it is not JSON as Busway takes it.
        Invalid: an event's member is not what it must be; `errors` says where.
        TooLarge: an event is over the limit.
    """
    try:
        value = decode_json(body)
    except JSONError as problem:
        raise BadRequest(str(problem)) from None
    if type(value) is dict:
        return [_read_one(value, body, now, max_event_bytes, ())], False
    if type(value) is not list:
        raise Invalid(
            'the body is one event, {"type": …, "data": …}, or an array of events',
            errors=[{"loc": ["body"], "msg": "not an object or array"}],
        )
    if not 1 <= len(value) <= MAX_EVENTS:
        raise Invalid(
            f"an array holds 1 to {MAX_EVENTS} events, this one has {len(value)}: send several requests",
            errors=[{"loc": ["body"], "msg": f"1 to {MAX_EVENTS} events"}],
        )
    parts = zip(value, _split(body), strict=True)
    return [
        _read_one(fields, bytes(raw), now, max_event_bytes, (at,)) for at, (fields, raw) in enumerate(parts)
    ], True


def read_member(body: bytes, name: str, now: int, max_event_bytes: int) -> NewEvent:
    """Read the event that is the one member `name` of a body.

    Args:
        body: the JSON text of an object.
        name: the member's name.
        now: microseconds since 1970.
        max_event_bytes: the most bytes that the event may have.

    Raises:
        BadRequest, Invalid, TooLarge: as `read_events`.
    """
    try:
        value = decode_json(body)
    except JSONError as problem:
        raise BadRequest(str(problem)) from None
    if type(value) is not dict:
        raise _invalid(f'the body is {{"{name}": {{"type": …, "data": …}}}}', [])
    for other in value:
        if other != name:
            raise _invalid(f"there is no field {other!r}: the body has {name!r} alone", [other])
    if name not in value:
        raise _invalid(f'{name} is missing: the body is {{"{name}": {{"type": …, "data": …}}}}', [name])
    raw = _members(body)[name]
    return _read_one(value[name], bytes(raw), now, max_event_bytes, (name,))


def _read_one(fields: Any, raw: bytes, now: int, limit: int, where: tuple[int | str, ...]) -> NewEvent:
    if len(raw) > limit:
        place = f"event {where[0]} of the array" if where and isinstance(where[0], int) else "the event"
        raise TooLarge(f"{place} has {len(raw)} bytes, the limit is {limit} (--max-event-bytes)")
    if type(fields) is not dict:
        raise _invalid("an event is a JSON object", [*where])
    try:
        return accept(fields, _payload(fields, raw), now)
    except FieldError as problem:
        raise _invalid(str(problem), [*where, problem.field]) from None


def _payload(fields: dict[str, Any], raw: bytes) -> bytes | None:
    if "data" not in fields:
        return None
    data = _decode_payload(raw).data
    return None if isinstance(data, msgspec.UnsetType) else bytes(data)


def _invalid(message: str, where: list[int | str]) -> Invalid:
    place = "".join(f"[{w}]" if isinstance(w, int) else f".{w}" for w in where).lstrip(".")
    return Invalid(
        f"{place}: {message}" if place else message, errors=[{"loc": ["body", *where], "msg": message}]
    )
