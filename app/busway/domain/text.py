"""Validation of names and of JSON text."""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec

MAX_DEPTH = 100
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_HUGE_NUMBER = re.compile(rb"[0-9]{309}")


class JSONError(ValueError):
    """The bytes are not JSON that Busway accepts. The message says why."""


def check_name(value: str, what: str, limit: int = 255) -> str:
    """Return a type, source, subject, id or pattern if its length and characters are valid.

    Args:
        value: the text.
        what: its name in error messages.
        limit: maximum number of characters.

    Raises:
        ValueError: the text is empty, too long or contains control characters.
    """
    if not 1 <= len(value) <= limit:
        raise ValueError(f"{what} must have 1 to {limit} characters, not {len(value)}")
    if holds_control(value):
        raise ValueError(f"{what} must not contain control characters")
    return value


def holds_control(value: str) -> bool:
    """Return whether a text contains control characters."""
    return not value.isprintable() and _CONTROL.search(value) is not None


def decode_json(body: bytes) -> Any:
    """Decode JSON strictly (RFC 8259): UTF-8, no NaN, at most 100 levels, numbers that fit in a double.

    Raises:
        JSONError: the text is not JSON, is nested too deeply or contains too large a number.
    """
    if _opened(body) > MAX_DEPTH:
        _check_depth(body)
    try:
        value = msgspec.json.decode(body)
    except RecursionError:
        raise JSONError(_TOO_DEEP) from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
        raise JSONError(f"the body is not JSON: {problem}") from None
    if _HUGE_NUMBER.search(body):
        _check_numbers(value)
    return value


_TOO_DEEP = f"the JSON is nested deeper than {MAX_DEPTH} levels: flatten it"
_STRUCTURE = re.compile(rb'"(?:[^"\\]|\\.)*+"|[\[{]|[\]}]', re.DOTALL)


_split = msgspec.json.Decoder(list[msgspec.Raw]).decode


def _opened(text: bytes) -> int:
    """Return an upper bound of the depth: the number of opening brackets. It is cheap to compute."""
    return text.count(b"[") + text.count(b"{")


def _check_depth(body: bytes) -> None:
    """Check the depth of each array item on its own, because an array of many events is long, not deep."""
    try:
        items = _split(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        _scan(body, 0)
        return
    for item in map(bytes, items):
        if _opened(item) >= MAX_DEPTH:
            _scan(item, 1)


def _scan(body: bytes, depth: int) -> None:
    for token in _STRUCTURE.finditer(body):
        first = body[token.start()]
        if first in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise JSONError(_TOO_DEEP)
        elif first in b"]}":
            depth -= 1


def _check_numbers(value: Any) -> None:
    if isinstance(value, dict):
        for item in value.values():
            _check_numbers(item)
    elif isinstance(value, list):
        for item in value:
            _check_numbers(item)
    elif isinstance(value, int):
        try:
            math.isfinite(float(value))
        except OverflowError:
            raise JSONError(
                "the JSON contains a number that does not fit in a double: send it as a string"
            ) from None
