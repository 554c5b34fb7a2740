"""Checks of what `ctx.publish` is given, made at once so that the error names the line at fault."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from app.domain import times
from app.domain.text import check_name

_EXTENSION = re.compile(r"[a-z0-9]{1,20}", re.ASCII)
_OWN = {"specversion", "type", "data", "database64"}
_LIMITS = {"id": 255, "source": 1024, "subject": 255, "datacontenttype": 255, "correlationid": 255}
_TIMES = ("time", "deliverat", "expirytime")
_TEXTS = (*_LIMITS, "partitionkey", "causationid", "traceparent")

Given = str | int | bool | datetime | None


def check_type(type_: Any) -> None:
    """Check an event type.

    Raises:
        ValueError: it is no text of 1 to 255 characters, or has white space, control characters or `*`.
    """
    if not isinstance(type_, str):
        raise ValueError(f"an event type is text such as 'order.created', not {type_!r}")
    check_name(type_, "an event type")
    if "*" in type_ or any(c.isspace() for c in type_):
        raise ValueError(f"the event type {type_!r} must hold neither '*' nor white space")
    _check_unicode("type", type_)


def check_attributes(given: Mapping[str, Given]) -> dict[str, str | int | bool]:
    """Check the attributes of an event to publish; those that are None are left out.

    Raises:
        ValueError: names the attribute that is not what it must be.
    """
    return {name: _check(name, value) for name, value in given.items() if value is not None}


def _check(name: str, value: Given) -> str | int | bool:
    if not _EXTENSION.fullmatch(name) or name in _OWN:
        raise ValueError(f"{name!r} cannot be an attribute: names are 1 to 20 of a-z and 0-9")
    if name in _TIMES:
        return _time(name, value)
    if name == "priority" and (isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 9):
        raise ValueError(f"priority is a whole number from 0 to 9, not {value!r}")
    if name in _TEXTS and not isinstance(value, str):
        raise ValueError(f"{name} is text, not {value!r}")
    if isinstance(value, str):
        return _text(name, value)
    if isinstance(value, int) and -(2**31) <= value < 2**31:  # the integers of CloudEvents
        return value if isinstance(value, bool) else int(value)
    raise ValueError(f"the attribute {name} is a str, a bool or an int of 32 bits, not {value!r}")


def _text(name: str, value: str) -> str:
    _check_unicode(name, value)
    return check_name(str(value), name, _LIMITS[name]) if name in _LIMITS else str(value)


def _check_unicode(name: str, value: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} is text that is not Unicode (a lone surrogate)") from None


def _time(name: str, value: Given) -> str:
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise ValueError(f"{name} is a datetime without a zone: use datetime.now(UTC)")
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if not isinstance(value, str):
        raise ValueError(f"{name} is an RFC 3339 time or a datetime, not {value!r}")
    try:
        times.from_text(value)
    except ValueError as problem:
        raise ValueError(f"{name}: {problem}") from None
    return value
