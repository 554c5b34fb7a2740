"""Validation of names and of JSON text."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from itertools import chain, islice, repeat
from operator import add
from typing import Any

import msgspec

MAX_DEPTH = 100
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


_decode = msgspec.json.Decoder().decode


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


def printable(text: str) -> str:
    """Return text that can be encoded: lone surrogates, such as of file names, become escapes."""
    return text.encode("utf-8", "backslashreplace").decode()


def decode_json(body: bytes) -> Any:
    """Decode JSON strictly (RFC 8259): UTF-8, no NaN, at most 100 levels, numbers that fit in a double.

    Raises:
        JSONError: the text is not JSON, is nested too deeply or contains too large a number.
    """
    value = parse_json(body)
    check_json(body, value)
    return value


def parse_json(body: bytes) -> Any:
    """Decode JSON as `decode_json` does, but without the checks of `check_json`.

    Raises:
        JSONError: the text is not JSON.
    """
    try:
        return msgspec.json.decode(body)
    except RecursionError:
        raise JSONError(_TOO_DEEP) from None
    except (msgspec.MsgspecError, UnicodeDecodeError) as problem:
        raise JSONError(_explain(body) or f"the body is not JSON: {problem}") from None


def check_json(body: bytes, value: Any, items: Iterable[bytes] | None = None) -> None:
    """Check the depth and the integers of a decoded JSON text.

    `items`: the texts of its items if it is an array. One with many items is long, not deep.

    Raises:
        JSONError: it is nested too deeply or contains too large a number.
    """
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and (
        items is None or _most_opened([*items]) >= MAX_DEPTH
    ):
        _check_depth(value)
    if holds_huge_number(body):
        _check_numbers(body)


_LONE_SURROGATE = re.compile(
    rb"\\u[dD](?:[89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
    rb"|(?<!\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD])[c-fC-F][0-9a-fA-F]{2})"
)
_SEARCHED = 2 << 20  # bytes that are searched for the reason of an error
_CANDIDATES = 1000  # most matches that are looked at, because escaped backslashes can make any number
_MARKS = {
    b"\xef\xbb\xbf": "it begins with a byte order mark (BOM): send UTF-8 without it",
    b"\xff\xfe": "it is UTF-16 or UTF-32: send UTF-8",
    b"\xfe\xff": "it is UTF-16: send UTF-8",
}


def _explain(body: bytes) -> str | None:
    """Return why a body is refused if the reason is its encoding, which the decoder does not name."""
    for mark, why in _MARKS.items():
        if body.startswith(mark):
            return f"the body is not JSON: {why}"
    for lone in islice(_LONE_SURROGATE.finditer(body, 0, _SEARCHED), _CANDIDATES):
        before = body[max(0, lone.start() - _CANDIDATES) : lone.start()]
        if (len(before) - len(before.rstrip(b"\\"))) % 2 == 0:
            return (
                f"the body is not JSON: at byte {lone.start()} it has the lone surrogate {lone[0].decode()}"
            )
    return None


_LONG = 256 * 1024  # bytes from which decoding would take milliseconds
_skip = msgspec.json.Decoder(msgspec.Raw).decode


def is_json(text: bytes) -> bool:
    """Return whether bytes are JSON that `decode_json` accepts.

    Depth and numbers of long texts are not checked: Busway has encoded them, unless somebody interfered.
    """
    try:
        size = len(text)
        if size > _LONG:
            return is_json_text(text.decode())
        value = _decode(text)
        if size > MAX_DEPTH:
            check_json(text, value)
    except (ValueError, RecursionError):  # MsgspecError and UnicodeDecodeError are ValueErrors
        return False
    return True


def is_json_text(text: str) -> bool:
    """Return whether a text is JSON, whatever its depth and numbers, without decoding it."""
    try:
        _skip(text)
    except (ValueError, RecursionError):
        return False
    return True


_TOO_DEEP = f"the JSON is nested deeper than {MAX_DEPTH} levels: flatten it"
_CONTAINERS = frozenset({dict, list})


def _most_opened(items: list[bytes]) -> int:
    """Return an upper bound of the depth of the deepest item: its number of opening brackets."""
    lists, objects = (map(bytes.count, items, repeat(bracket)) for bracket in (b"[", b"{"))
    return max(map(add, lists, objects), default=0)


def _check_depth(value: Any) -> None:
    """Check the depth, one level after the other. Each value is visited once."""
    level = [value] if type(value) in _CONTAINERS else []
    for _ in range(MAX_DEPTH - 1):
        level = [item for item in _items(level) if item and type(item) in _CONTAINERS]
        if not level:
            return
    if any(type(item) in _CONTAINERS for item in _items(level)):
        raise JSONError(_TOO_DEEP)


def _items(level: list[Any]) -> Iterator[Any]:
    return chain.from_iterable(each.values() if type(each) is dict else each for each in level)


_DIGITS_OF_A_DOUBLE = 309  # an integer with more digits does not fit
_STEP = 77  # of so many digits at least every 77th is looked at, which are four in a row
_FEW = b"0000"
_HUGE = b"0" * _DIGITS_OF_A_DOUBLE
_AS_DIGITS = bytes(ord("0") if chr(byte) in "0123456789" else ord(" ") for byte in range(256))
_FRACTION_OR_EXPONENT = re.compile(rb"\.|[eE][+-]?")


def holds_huge_number(text: bytes) -> bool:
    """Return whether 309 digits follow one another, also in a string. It takes at most one pass."""
    if len(text) < _DIGITS_OF_A_DOUBLE or _FEW not in text[::_STEP].translate(_AS_DIGITS):
        return False
    return _HUGE in text.translate(_AS_DIGITS)


def _check_numbers(text: bytes) -> None:
    """Check the integers of a JSON text. Numbers with a fraction or an exponent are already checked.

    A run of digits is in a string if the number of quotation marks before it is odd.
    """
    digits = text.translate(_AS_DIGITS)
    plain = text.replace(rb"\\", b"__").replace(rb"\"", b"__")  # without escaped quotation marks
    quotes = counted = 0
    at = digits.find(_HUGE)
    while at >= 0:
        end = digits.find(b" ", at)
        end = len(text) if end < 0 else end
        quotes += plain.count(b'"', counted, at)
        counted = at
        if not (quotes % 2 or _is_part(text, at, end)) and not math.isfinite(float(text[at:end])):
            raise JSONError("the JSON contains a number that does not fit in a double: send it as a string")
        at = digits.find(_HUGE, end)


def _is_part(text: bytes, start: int, end: int) -> bool:
    """Return whether these digits are the fraction or the exponent of a number, or its part before them."""
    before = _FRACTION_OR_EXPONENT.search(text, max(0, start - 2), start)
    return (before is not None and before.end() == start) or text[end : end + 1] in (b".", b"e", b"E")
