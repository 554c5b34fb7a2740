"""Reads validated events from request bodies. Payloads keep their received bytes."""

from __future__ import annotations

import itertools
from typing import Any

import msgspec

from busway.contract.checking import MOST
from busway.contract.problems import BadField
from busway.domain.event import NewEvent
from busway.domain.event_fields import accept, faults
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
    """Read one event or an array of events.

    Args:
        body: the JSON text.
        now: microseconds since 1970.
        max_event_bytes: maximum size of one event.

    Returns:
        The events, and whether the body is an array.

    Raises:
        BadRequest: the body is not JSON that Busway accepts.
        Invalid: members of events are invalid. `errors` has all of them.
        TooLarge: an event exceeds the limit.
    """
    value = _decoded(body)
    if type(value) is dict:
        try:
            return [_read_one(value, body, now, max_event_bytes)], False
        except FieldError:
            raise Invalid.of(_bad(value, now, ())) from None
    if type(value) is not list:
        raise _invalid([], 'the body must be one event, {"type": …, "data": …}, or an array of events')
    if not 1 <= len(value) <= MAX_EVENTS:
        raise _invalid(
            [], f"an array must have 1 to {MAX_EVENTS} events, not {len(value)}: send several requests"
        )
    parts = zip(value, _split(body), strict=True)
    try:
        return [
            _read_one(fields, bytes(raw), now, max_event_bytes, at) for at, (fields, raw) in enumerate(parts)
        ], True
    except FieldError:
        bad = (each for at, fields in enumerate(value) for each in _bad(fields, now, (at,)))
        raise Invalid.of(list(itertools.islice(bad, MOST))) from None


def read_member(body: bytes, name: str, now: int, max_event_bytes: int) -> NewEvent:
    """Read a body whose only member `name` is an event.

    Args:
        body: the JSON text of an object.
        name: the member's name.
        now: microseconds since 1970.
        max_event_bytes: maximum size of the event.

    Raises:
        BadRequest, Invalid, TooLarge: as from `read_events`.
    """
    value = _decoded(body)
    form = f'the body must be {{"{name}": {{"type": …, "data": …}}}}'
    if type(value) is not dict:
        raise _invalid([], form)
    unknown = sorted(value.keys() - {name})
    if unknown:
        raise _invalid(unknown[:1], f"unknown field: {form}")
    if name not in value:
        raise _invalid([name], f"missing field: {form}")
    try:
        return _read_one(value[name], bytes(_members(body)[name]), now, max_event_bytes)
    except FieldError:
        raise Invalid.of(_bad(value[name], now, (name,))) from None


def _decoded(body: bytes) -> Any:
    try:
        return decode_json(body)
    except JSONError as problem:
        raise BadRequest(str(problem)) from None


def _read_one(fields: Any, raw: bytes, now: int, limit: int, at: int | None = None) -> NewEvent:
    if len(raw) > limit:
        place = "the event" if at is None else f"event {at} of the array"
        raise TooLarge(f"{place} has {len(raw)} bytes: the limit is {limit} (--max-event-bytes)")
    if type(fields) is not dict:
        raise FieldError("", _NO_OBJECT)
    return accept(fields, _payload(fields, raw), now)


def _payload(fields: dict[str, Any], raw: bytes) -> bytes | None:
    if "data" not in fields:
        return None
    data = _decode_payload(raw).data
    return None if isinstance(data, msgspec.UnsetType) else bytes(data)


_NO_OBJECT = "an event must be a JSON object"


def _bad(fields: Any, now: int, where: tuple[str | int, ...]) -> list[BadField]:
    """Return the invalid fields of an event."""
    if type(fields) is not dict:
        return [BadField(["body", *where], _NO_OBJECT)]
    return [BadField(["body", *where, fault.field], str(fault)) for fault in faults(fields, now)]


def _invalid(where: list[str], message: str) -> Invalid:
    return Invalid.of([BadField(["body", *where], message)])
