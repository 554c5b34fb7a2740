"""Strict JSON encoding of handler values. Values that JSON lacks raise an error that names type and path."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from math import isfinite
from typing import Any, NoReturn

import msgspec

from busway.domain.classes import class_name
from busway.domain.text import MAX_DEPTH, holds_huge_number

MAX_RESULT_BYTES = 16_777_216  # default limit

_PLAIN = frozenset({str, int, bool, type(None)})
_FLOAT = frozenset({float})
_TEXT = frozenset({str})
_BINARY = frozenset({bytes, bytearray, memoryview})
_FEW = 8  # up to this many members a plain loop is faster than sets of types
_ADVICE = "use None, bool, int, float, str, list and dict with str keys, or bytes as the whole value"


def encode(value: Any, what: str) -> tuple[bytes, bool]:
    """Encode a value that a handler returned, yielded or published.

    Args:
        value: a JSON value, or bytes, bytearray or memoryview, which are not changed.
        what: name of the value in error messages, such as "the returned value".

    Returns:
        The bytes, and whether they are binary instead of JSON text.

    Raises:
        TypeError: a value has a type that JSON lacks.
        ValueError: NaN, infinity, a number too large for a double, invalid Unicode, or over 100 levels.
    """
    if type(value) in _BINARY:
        return bytes(value), True
    if not _sound(value, 1):
        _refuse(value, what)
    try:
        data = _encoder.encode(value)
    except ValueError:  # a lone surrogate, or an integer of thousands of digits
        _refuse(value, what)
    if holds_huge_number(data):
        _explain(value, what)  # no error if the digits are in a string
    return data, False


def encode_result(value: Any, what: str, most: int = MAX_RESULT_BYTES) -> tuple[bytes, bool]:
    """Encode a value that a handler returned or yielded, as `encode` does. None becomes `null`.

    Raises:
        TypeError, ValueError: as from `encode`. ValueError also for more than `most` bytes.
    """
    if value is None:
        return b"null", False
    data, binary = encode(value, what)
    if len(data) > most:
        raise ValueError(
            f"{what} has {len(data)} bytes: a result may have at most {most} (--max-result-bytes)"
        )
    return data, binary


def _plain(value: Any) -> Any:
    """Strip subclasses of str, int and float (numpy's float64 is one), which msgspec refuses."""
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__int__(value)
    if isinstance(value, float):
        return float.__float__(value)
    raise TypeError(f"a {class_name(type(value))} cannot be encoded as JSON")


_encoder = msgspec.json.Encoder(enc_hook=_plain)


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


def _refuse(value: Any, what: str) -> NoReturn:
    _explain(value, what)
    raise ValueError(f"{what} changed while it was encoded")


def _explain(value: Any, what: str) -> None:
    for path, item, depth in _walk(value, "", 1):
        place = f"{what} contains at {path} " if path else f"{what} is "
        if isinstance(item, float) and not isfinite(item):
            raise ValueError(f"{place}{item}, which JSON cannot represent")
        if isinstance(item, int) and not _in_double(item):
            raise ValueError(f"{place}a number that does not fit in a double: use a str")
        if isinstance(item, str):
            _check_text(item, place)
        elif depth > MAX_DEPTH:
            raise ValueError(f"{what} is nested deeper than {MAX_DEPTH} levels (does it contain itself?)")
        elif not isinstance(item, int | float | list | tuple | dict | None):
            raise TypeError(f"{place}a {_name(item)}: {_ADVICE}")


def _walk(value: Any, path: str, depth: int) -> Iterator[tuple[str, Any, int]]:
    container = isinstance(value, list | tuple | dict)
    yield path, value, depth if container else 0
    if isinstance(value, dict):
        for key, item in value.items():
            if not isinstance(key, str):
                yield f"{path}.{key!r} (a key)", _NotText(key), 0
            yield f"{path}.{key}", key if isinstance(key, str) else "", 0
            yield from _walk(item, f"{path}.{key}", depth + 1)
    elif container:
        for index, item in enumerate(value):
            yield from _walk(item, f"{path}[{index}]", depth + 1)


class _NotText:
    """A key of a dict that is not text."""

    def __init__(self, key: object) -> None:
        self.key = key


def _name(item: object) -> str:
    return class_name(type(item.key if type(item) is _NotText else item))


def _in_double(value: int) -> bool:
    try:
        return isfinite(float(value))
    except OverflowError:
        return False


def _check_text(value: str, place: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{place}text that is not valid Unicode (a lone surrogate)") from None
