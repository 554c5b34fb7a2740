"""Checks of what `ctx.publish` is given, made at once so that the traceback names the line at fault."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from app.domain.accepting import accept
from app.domain.handler import FieldError

_NOT_NAMED = {"specversion", "type", "data", "data_base64"}

Given = str | int | bool | datetime | None


def check(type_: Any, given: Mapping[str, Given]) -> dict[str, str | int | bool]:
    """Check the type and the attributes of an event to publish, by the rule for events from outside.

    Returns:
        The attributes, times as RFC 3339 text, without those that are None.

    Raises:
        ValueError: names the attribute that is not what it must be.
    """
    named = {str.__str__(name): value for name, value in given.items() if value is not None}
    attributes = {name: _plain(name, value) for name, value in named.items()}
    try:
        accept({"type": _plain("type", type_), **attributes}, None, 0)
    except FieldError as problem:
        raise ValueError(f"{problem.field}: {problem}") from None
    return attributes


def _plain(name: str, value: Any) -> Any:
    if name in _NOT_NAMED and name != "type":
        raise ValueError(f"{name} cannot be given as an attribute")
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise ValueError(f"{name} is a datetime without a zone: use datetime.now(UTC)")
        return value.astimezone(UTC).isoformat().replace("+00:00", "Z")
    if isinstance(value, str):
        return _unicode(name, str.__str__(value))
    return int(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _unicode(name: str, value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{name} is text that is not Unicode (a lone surrogate)") from None
    return value
