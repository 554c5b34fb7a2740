"""Strict JSON encoding of handler values. Plain JSON values are checked and encoded as they are.

Others are converted first (`jsonforms`). Values without a JSON form raise an error that names path and type.
"""

from __future__ import annotations

from collections.abc import Collection
from enum import Enum
from math import isfinite
from typing import Any

import msgspec

from busway.domain.classes import class_name
from busway.domain.jsonforms import NotEncodable, plain
from busway.domain.text import MAX_DEPTH, holds_huge_number

__all__ = ["MAX_RESULT_BYTES", "NotEncodable", "encode", "encode_result"]

MAX_RESULT_BYTES = 16_777_216  # default limit

_PLAIN = frozenset({str, int, bool, type(None)})
_FLOAT = frozenset({float})
_TEXT = frozenset({str})
_BINARY = frozenset({bytes, bytearray, memoryview})
_FEW = 8  # up to this many members a plain loop is faster than sets of types


def encode(value: Any, what: str) -> tuple[bytes, bool]:
    """Encode a value that a handler returned, yielded or published.

    Args:
        value: a value with a JSON form, or bytes, bytearray or memoryview, which are not changed.
        what: name of the value in error messages, such as "the returned value".

    Returns:
        The bytes, and whether they are binary instead of JSON text.

    Raises:
        NotEncodable: a part has a type without JSON form, or is NaN, infinite, a number too large for a
            double, invalid Unicode or nested deeper than 100 levels. It is a TypeError and a ValueError.
    """
    if type(value) in _BINARY:
        return bytes(value), True
    if not _sound(value, 1):
        value = plain(value, what)
    try:
        data = _encoder.encode(value)
    except ValueError:  # a lone surrogate, or an integer of thousands of digits
        plain(value, what)
        raise
    if holds_huge_number(data):
        plain(value, what)  # no error if the digits are in a string
    return data, False


def encode_result(value: Any, what: str, most: int = MAX_RESULT_BYTES) -> tuple[bytes, bool]:
    """Encode a value that a handler returned or yielded, as `encode` does. None becomes `null`.

    Raises:
        NotEncodable: as from `encode`.
        ValueError: it has more than `most` bytes.
    """
    if value is None:
        return b"null", False
    data, binary = encode(value, what)
    if len(data) > most:
        raise ValueError(
            f"{what} has {len(data)} bytes: a result may have at most {most} (--max-result-bytes)"
        )
    return data, binary


def _base(value: Any) -> Any:
    """Strip subclasses of str, int and float (numpy's float64 is one), which msgspec refuses."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    raise TypeError(f"a {class_name(type(value))} cannot be encoded as JSON")


_encoder = msgspec.json.Encoder(enc_hook=_base)


def _sound(value: Any, depth: int) -> bool:
    kind = type(value)
    if kind in _PLAIN:
        return True
    if kind is float:
        return isfinite(value)
    if depth > MAX_DEPTH:
        return False
    if kind is dict:
        return _dict_sound(value, depth)
    if kind is list:
        return _all_sound(value, depth)
    return _sound_subclass(value, depth)


def _dict_sound(value: dict[Any, Any], depth: int) -> bool:
    if len(value) > _FEW:
        keys = set(map(type, value)) <= _TEXT or all(isinstance(key, str) for key in value)
        return keys and _all_sound(value.values(), depth)
    for key, item in value.items():
        if not isinstance(key, str) or (type(item) not in _PLAIN and not _sound(item, depth + 1)):
            return False
    return True


def _sound_subclass(value: Any, depth: int) -> bool:
    if issubclass(type(value), Enum):
        return False
    if isinstance(value, float):
        return isfinite(value)
    if isinstance(value, dict):
        return _dict_sound(value, depth)
    if isinstance(value, list | tuple):
        return _all_sound(value, depth)
    return isinstance(value, str | int)


def _all_sound(items: Collection[Any], depth: int) -> bool:
    kinds = set(map(type, items))
    if kinds <= _PLAIN:
        return True
    if kinds == _FLOAT:
        return all(map(isfinite, items))
    return all(_sound(item, depth + 1) for item in items)
