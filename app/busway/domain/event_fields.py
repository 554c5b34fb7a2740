"""Validation of an event's members. Every way of publishing uses these rules."""

from __future__ import annotations

import base64
import binascii
import re
from functools import lru_cache
from typing import Any

from busway.domain import times
from busway.domain.event import Attribute, NewEvent, new_id
from busway.domain.handler import FieldError
from busway.domain.operations import SOURCE as OPERATIONS
from busway.domain.text import check_name, holds_control

MAX_EVENT_BYTES = 1_048_576  # default limit
MAX_ATTRIBUTES = 1_000
MAX_PUBLISHED = 10_000  # events that one attempt may publish
MAX_DEPTH = 64  # default limit of events below their root event

_ATTRIBUTE = re.compile(r"[a-z0-9]{1,20}", re.ASCII)
_OURS = frozenset({"seq", "runs"})
_NOT_IN_A_TYPE = re.compile(r"[\s*]")
_LEAST = frozenset({"type", "data", "id"})
_KNOWN = frozenset(
    {"type", "id", "source", "subject", "time", "specversion", "datacontenttype", "data", "data_base64"}
)


def accept(fields: dict[str, Any], data: bytes | None, now: int, source: str = "/") -> NewEvent:
    """Validate the members of one event and return the event.

    Args:
        fields: the decoded members.
        data: the received JSON text of the member `data`, None if it is absent.
        now: microseconds since 1970.
        source: default of `source`.

    Raises:
        FieldError: a member is missing, unknown or invalid.
    """
    given_id = _text(fields, "id") if "id" in fields else None
    id_ = given_id or new_id(now)
    event = NewEvent(
        id=id_,
        source=source,
        type=_type(fields),
        time=now,
        accepted_at=now,
        data=data,
        correlationid=id_,
        made_id=given_id is None,
    )
    if not fields.keys() <= _LEAST:
        _read_others(event, fields, now)
    return event


def faults(fields: dict[str, Any], now: int) -> list[FieldError]:
    """Return an error for each member that `accept` refuses. Each is checked on its own."""
    if len(fields) > MAX_ATTRIBUTES:
        return [too_many()]
    data: dict[str, Any] = {name: fields[name] for name in ("data", "data_base64") if name in fields}
    others = [{name: value} for name, value in fields.items() if name not in {"type", *data}]
    found: list[FieldError] = []
    parts: list[dict[str, Any]] = [{"type": fields.get("type")}, data, *others]
    for members in parts:
        try:
            accept({"type": "t", **members}, None, now)
        except FieldError as problem:
            found.append(problem.detached())
    return found


def too_many() -> FieldError:
    """Return the error for an event with too many members."""
    return FieldError("", f"an event has at most {MAX_ATTRIBUTES} members: move some into data")


def _read_others(event: NewEvent, fields: dict[str, Any], now: int) -> None:
    if len(fields) > MAX_ATTRIBUTES:
        raise too_many()
    if fields.get("specversion", "1.0") != "1.0":
        raise FieldError("specversion", 'specversion must be "1.0": Busway accepts CloudEvents 1.0')
    time = _time(fields, "time")
    event.time = now if time is None else time
    event.source = _text(fields, "source", 1024) or event.source
    if event.source == OPERATIONS:
        raise FieldError("source", f"the source {OPERATIONS!r} is the gateway's own: choose another one")
    event.subject = _text(fields, "subject")
    event.datacontenttype = _text(fields, "datacontenttype")
    if "data_base64" in fields:
        _read_binary(event, fields)
    if not fields.keys() <= _KNOWN:
        _read_attributes(event, fields)


def _type(fields: dict[str, Any]) -> str:
    value = fields.get("type")
    if value is None:
        raise FieldError("type", 'type is missing: set it, for example to "order.created"')
    if not isinstance(value, str):
        raise _no_string("type", value)
    return _check_type(value)


@lru_cache(maxsize=2_000)  # of at most 255 characters each
def _check_type(value: str) -> str:
    """Validate a type. Valid types are cached, because few types repeat often."""
    if _NOT_IN_A_TYPE.search(_checked(value, "type", 255)):
        raise FieldError("type", f"type must not contain '*' or white space: {value!r} does")
    return value


def _text(fields: dict[str, Any], name: str, limit: int = 255) -> str | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise _no_string(name, value)
    return _checked(value, name, limit)


def _checked(value: str, name: str, limit: int) -> str:
    try:
        return check_name(value, name, limit)
    except ValueError as problem:
        raise FieldError(name, str(problem)) from None


def _no_string(name: str, value: object) -> FieldError:
    return FieldError(name, f"{name} must be a string, not {_json_type(value)}")


def _time(fields: dict[str, Any], name: str) -> int | None:
    value = fields.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise FieldError(name, f"{name} must be a string with an RFC 3339 time, not {_json_type(value)}")
    try:
        return times.from_text(value)
    except (ValueError, OverflowError) as problem:
        raise FieldError(name, str(problem)) from None


def _read_binary(event: NewEvent, fields: dict[str, Any]) -> None:
    if "data" in fields:
        raise FieldError("data_base64", "an event must not have both data and data_base64: remove one")
    try:
        event.data = base64.b64decode(fields["data_base64"], validate=True)
    except (binascii.Error, ValueError, TypeError):
        raise FieldError("data_base64", "data_base64 must be a base64 string (RFC 4648)") from None
    event.binary = True


def _read_attributes(event: NewEvent, fields: dict[str, Any]) -> None:
    attributes: dict[str, Attribute] = {}
    for name, value in fields.items():
        if name not in _KNOWN:
            attributes[name] = _attribute(name, value)
    event.attributes = attributes
    event.due = _time(attributes, "deliverat")
    event.expires_at = _time(attributes, "expirytime")
    event.correlationid = _text(attributes, "correlationid") or event.id
    event.causationid = _text(attributes, "causationid")
    _text(attributes, "partitionkey")
    if "priority" in attributes:
        event.priority = _priority(attributes["priority"])


def _attribute(name: str, value: Any) -> Attribute:
    if name in _OURS:
        raise FieldError(name, f"{name!r} is set by the gateway: choose another name")
    if not _ATTRIBUTE.fullmatch(name):
        raise FieldError(
            name, f"{name!r} is not a valid attribute name: use 1 to 20 characters of a-z and 0-9"
        )
    if isinstance(value, int) and abs(value) >= 1 << 63:
        raise FieldError(name, f"{name} does not fit in 64 bits: send it as a string")
    if isinstance(value, str):
        if holds_control(value):
            raise FieldError(name, f"the attribute {name} must not contain control characters")
        return value
    if isinstance(value, int):
        return value
    raise FieldError(
        name,
        f"the attribute {name} must be a string, integer or boolean, not {_json_type(value)}: use data",
    )


def _priority(value: Attribute) -> int:
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 9:
        return value
    raise FieldError("priority", "priority must be an integer from 0 to 9 (9 runs first)")


_JSON_TYPES = {dict: "an object", list: "an array", bool: "a boolean", type(None): "null", str: "a string"}


def _json_type(value: Any) -> str:
    return _JSON_TYPES.get(type(value), "a number")
