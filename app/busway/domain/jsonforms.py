"""The JSON forms of Python's types. Converts a value to plain JSON types, or says what in it has no form."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from math import isfinite
from pathlib import PurePath
from typing import Any, NoReturn
from uuid import UUID

import msgspec

from busway.domain.classes import bases_of, class_name, holds_member
from busway.domain.text import MAX_DEPTH

_SHOWN = 60  # characters of a key in a path
_PATH = 200  # characters of a path
_MINUTE = timedelta(minutes=1)
_NO_FORM = "has no JSON form"

_text = msgspec.json.Encoder().encode
_Form = Callable[[Any, int], Any]


class NotEncodable(TypeError, ValueError):
    """A value has no JSON form. The message names its place in the value, and its type."""


class _Unfit(Exception):
    """A part has no JSON form. `path`: the keys that lead to it, the last one first."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.path: list[str] = []


def plain(value: Any, what: str) -> Any:
    """Return a value in plain JSON types: None, bool, int, float, str, list, and dict with str keys.

    Args:
        value: what a handler returned, yielded or published.
        what: name of the value in error messages, such as "the returned value".

    Raises:
        NotEncodable: a part of it has no JSON form. If code of the user's types raised, that is the cause.
    """
    try:
        return _plain(value, 1)
    except _Unfit as problem:
        place = "".join(reversed(problem.path))
        shown = place if len(place) <= _PATH else f"{place[:_PATH]}…"
        raise NotEncodable(f"{what}{': ' if place else ''}{shown} {problem}") from problem.__cause__


def _plain(value: Any, depth: int) -> Any:
    return _form_of(type(value))(value, depth)  # type: ignore[arg-type] # mypy: types have no hash


@functools.lru_cache(1024)
def _form_of(kind: type) -> _Form:
    """Return the function that converts values of a type."""
    if issubclass(kind, Enum):
        return _enum
    for base in bases_of(kind):
        if base in _FORMS:
            return _FORMS[base]
    if holds_member(kind, "__pydantic_serializer__"):
        return _model if holds_member(kind, "model_dump") else _pydantic_dataclass
    return _dataclass if holds_member(kind, "__dataclass_fields__") else _refuse


def _refuse(value: Any, _depth: int) -> NoReturn:
    raise _Unfit(f"is {_a(value)}, which {_NO_FORM}")


def _bytes(value: Any, _depth: int) -> NoReturn:
    raise _Unfit(f"is {_a(value)}, which {_NO_FORM}: bytes can only be the whole value")


def _same(value: Any, _depth: int) -> Any:
    return value


def _int(value: int, _depth: int) -> int:
    value = int.__int__(value)
    if value.bit_length() > 1023:
        try:
            float(value)
        except OverflowError:
            raise _Unfit("is an int that does not fit in a double: use a str") from None
    return value


def _float(value: float, _depth: int) -> float:
    if not isfinite(value):
        raise _Unfit(f"is {_a(value)} with the value {float.__repr__(value)}, which {_NO_FORM}")
    return float.__float__(value)


def _str(value: str, _depth: int) -> str:
    value = str.__str__(value)
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _Unfit("is a str with a lone surrogate, which is not valid Unicode") from None
    return value


def _datetime(value: datetime, _depth: int) -> str:
    if value != value:  # noqa: PLR0124 - the NaT of pandas, a datetime that is none
        _refuse(value, _depth)
    offset = value.utcoffset()
    if offset is not None and offset % _MINUTE:  # RFC 3339 has offsets in minutes
        value -= offset
        return f"{value.replace(tzinfo=None).isoformat()}Z"
    return _zulu(value.isoformat())


def _time(value: time, _depth: int) -> str:
    offset = value.utcoffset()
    if offset is not None and offset % _MINUTE:
        raise _Unfit(f"is {_a(value)} whose offset is not in whole minutes, which {_NO_FORM}")
    return _zulu(value.isoformat())


def _zulu(text: str) -> str:
    return f"{text[:-6]}Z" if text.endswith("+00:00") else text


def _date(value: date, _depth: int) -> str:
    return value.isoformat()


def _timedelta(value: timedelta, _depth: int) -> str:
    sign, value = ("-", -value) if value.days < 0 else ("", value)
    minutes, seconds = divmod(value.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    fraction = f".{value.microseconds:06}".rstrip("0") if value.microseconds else ""
    parts = [(value.days, "D"), (hours, "H"), (minutes, "M"), (f"{seconds}{fraction}", "S")]
    day, *times = (f"{number}{unit}" if number not in {0, "0"} else "" for number, unit in parts)
    text = "".join(times)
    return f"{sign}P{day}T{text}" if text else f"{sign}P{day}" if day else "PT0S"


def _decimal(value: Decimal, _depth: int) -> str:
    if not value.is_finite():
        raise _Unfit(f"is {_a(value)} with the value {value}, which {_NO_FORM}")
    return str(value)


def _uuid(value: UUID, _depth: int) -> str:
    return UUID.__str__(value)


def _path(value: PurePath, depth: int) -> str:
    return _str(str(value), depth)


def _enum(value: Enum, depth: int) -> Any:
    found = value.value
    if isinstance(found, Enum):  # otherwise a member whose value is itself would never end
        raise _Unfit(f"is {_a(value)} whose value is {_a(found)}, which {_NO_FORM}")
    return _plain(found, depth)


def _list(value: Iterable[Any], depth: int) -> list[Any]:
    _check_depth(value, depth)
    found: list[Any] = []
    try:
        for item in value:
            found.append(_plain(item, depth + 1))  # noqa: PERF401 - the index of a refused item is the length
    except _Unfit as problem:
        problem.path.append(f"[{len(found)}]")
        raise
    return found


def _set(value: Iterable[Any], depth: int) -> list[Any]:
    _check_depth(value, depth)
    try:
        found = [_plain(item, depth + 1) for item in value]
    except _Unfit as problem:
        problem.path.append("[]")
        raise
    try:
        return sorted(found)
    except TypeError:
        return sorted(found, key=_text)


def _dict(value: dict[Any, Any], depth: int) -> dict[str, Any]:
    _check_depth(value, depth)
    found: dict[str, Any] = {}
    for key, item in value.items():
        name = key if type(key) is str else _key(key)
        if name in found:
            raise _Unfit(f"has two keys that are {_shown(name)} in JSON")
        _add(found, name, item, depth)
    return found


def _add(found: dict[str, Any], name: str, item: Any, depth: int) -> None:
    try:
        found[_str(name, depth)] = _plain(item, depth + 1)
    except _Unfit as problem:
        problem.path.append(_step(name))
        raise


def _key(key: Any) -> str:
    """Return the form of a key: that of the value if it is a string, or the digits of an integer."""
    try:
        form = _plain(key, MAX_DEPTH + 1)
    except _Unfit:
        form = None
    if type(form) is int:
        return str(form)
    if type(form) is not str:
        raise _Unfit(f"has a key that is {_a(key)}, which {_NO_FORM} as a key: use a str")
    return form


def _dataclass(value: Any, depth: int) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(value)]
    return _object(value, names, names, depth)


def _struct(value: msgspec.Struct, depth: int) -> Any:
    config, names = value.__struct_config__, value.__struct_fields__
    tag = {} if config.tag is None else {config.tag_field: config.tag}
    if config.array_like:
        return _list([*tag.values(), *(getattr(value, name) for name in names)], depth)
    omitted = _defaults(value) if config.omit_defaults else ()
    kept = [
        (name, encoded)
        for name, encoded in zip(names, value.__struct_encode_fields__, strict=True)
        if name not in omitted
    ]
    return tag | _object(value, [name for name, _ in kept], [encoded for _, encoded in kept], depth)


def _defaults(value: msgspec.Struct) -> set[str]:
    """Return the fields that `omit_defaults` omits, by the rule of msgspec."""
    defaults = value.__struct_defaults__
    names = value.__struct_fields__[-len(defaults) :] if defaults else ()
    return {
        name
        for name, default in zip(names, defaults, strict=True)
        if _is_default(getattr(value, name, None), default)
    }


def _is_default(item: Any, default: Any) -> bool:
    made = getattr(default, "factory", None)
    return item is default or (made in {list, dict, set} and type(item) is made and not item)


def _object(value: Any, names: Sequence[str], encoded: Sequence[str], depth: int) -> dict[str, Any]:
    _check_depth(value, depth)
    found: dict[str, Any] = {}
    for name, shown in zip(names, encoded, strict=True):
        try:
            item = getattr(value, name)
        except Exception as problem:
            raise _Unfit(f"is {_a(value)} whose field {name} cannot be read: {_said(problem)}") from problem
        if item is not msgspec.UNSET:
            _add(found, shown, item, depth)
    return found


def _model(value: Any, depth: int) -> Any:
    # With aliases, as FastAPI: so the class of a published model can validate it.
    return _dumped(value, depth, lambda mode: value.model_dump(mode=mode, by_alias=True))


def _pydantic_dataclass(value: Any, depth: int) -> Any:
    dump = type(value).__pydantic_serializer__.to_python
    return _dumped(value, depth, lambda mode: dump(value, mode=mode, by_alias=True))


def _dumped(value: Any, depth: int, dump: Callable[[str], Any]) -> Any:
    try:
        found = dump("json")
        if _holds_none(found):
            found = _with_floats(found, dump("python"))
    except Exception as problem:
        raise _Unfit(f"is {_a(value)} that cannot be serialized: {_said(problem)}") from problem
    return _plain(found, depth)


def _holds_none(found: Any) -> bool:
    if isinstance(found, dict):
        return any(map(_holds_none, found.values()))
    return any(map(_holds_none, found)) if isinstance(found, list) else found is None


def _with_floats(found: Any, given: Any) -> Any:
    """Return a dump of pydantic with NaN and infinities, which are None in fields that may be Any."""
    if isinstance(found, dict) and isinstance(given, dict):
        return {key: _with_floats(item, given.get(key)) for key, item in found.items()}
    if isinstance(found, list) and isinstance(given, list | tuple):
        return list(map(_with_floats, found, given))
    return given if found is None and isinstance(given, float) else found


def _check_depth(value: Any, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise _Unfit(f"is {_a(value)} nested deeper than {MAX_DEPTH} levels: does the value contain itself?")


def _step(name: str) -> str:
    return f".{name}" if name.isidentifier() and len(name) <= _SHOWN else f"[{_shown(name)}]"


def _shown(name: str) -> str:
    return repr(name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…")


def _a(value: Any) -> str:
    name = class_name(type(value))
    return f"{'an' if name[:1] in {*'aeioAEIO'} else 'a'} {name}"


def _said(problem: Exception) -> str:
    return f"{class_name(type(problem))}: {problem}"


_FORMS: dict[type, _Form] = {
    type(None): _same,
    bool: _same,
    int: _int,
    float: _float,
    str: _str,
    datetime: _datetime,  # before `date` in the order of bases, because it is one
    date: _date,
    time: _time,
    timedelta: _timedelta,
    UUID: _uuid,
    Decimal: _decimal,
    PurePath: _path,
    list: _list,
    tuple: _list,
    set: _set,
    frozenset: _set,
    dict: _dict,
    msgspec.Struct: _struct,
    bytes: _bytes,
    bytearray: _bytes,
    memoryview: _bytes,
}
