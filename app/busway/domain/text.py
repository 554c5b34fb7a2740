"""Checks of names and of JSON text that every door of the gateway shares."""

from __future__ import annotations

import math
import re
from typing import Any

import msgspec

MAX_DEPTH = 100
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_HUGE_NUMBER = re.compile(rb"[0-9]{309}")


class JSONError(ValueError):
    """The bytes are not JSON that Busway takes; the message says why."""


def check_name(value: str, what: str, limit: int = 255) -> str:
    """Return a type, source, subject, id or pattern if its length and characters are allowed.

    Args:
        value: the text.
        what: how the message calls it, with its article.
        limit: the most characters it may have.

    Raises:
        ValueError: empty, too long, or with control characters.
    """
    if not 1 <= len(value) <= limit:
        raise ValueError(f"{what} has 1 to {limit} characters, this one has {len(value)}")
    if holds_control(value):
        raise ValueError(f"{what} must not hold control characters")
    return value


def holds_control(value: str) -> bool:
    """Tell whether a text holds control characters."""
    return not value.isprintable() and _CONTROL.search(value) is not None


def decode_json(body: bytes) -> Any:
    """Decode JSON strictly (RFC 8259): UTF-8, no NaN, at most 100 levels, numbers within a double.

    Raises:
        JSONError: it is none, or too deep, or holds a number that no double holds.
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
    """Count what may open a level: no text is deeper than that, and most are far from the limit."""
    return text.count(b"[") + text.count(b"{")


def _check_depth(body: bytes) -> None:
    """Look at each item of an array by itself: an array of many events is long, but not deep."""
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
            raise JSONError("the JSON holds a number that no double can hold: send it as a string") from None
