"""Filters: the CloudEvents Subscriptions dialects, applied to attributes and to payload values by path.

A filter is an object with one dialect. `exact`, `prefix` and `suffix` compare values; all comparisons in one
of them must match. `all`, `any` and `not` combine filters (CloudEvents Subscriptions API, "Filters").

- Attributes are compared as text, case-sensitively, in their CloudEvents form: integers in decimal, booleans
  as `true` and `false`. `exact` on `time` compares points in time. Values are compared as received, except
  `correlationid`, which every event has.
- `data` is the payload. `data.a.0.b` is a value in it: object keys, and list indexes from 0.
  `exact` accepts any JSON scalar there and distinguishes JSON types: "2" is not 2, and true is not 1.
  Numbers are compared by value: 2 equals 2.0. null matches only a null that is present. Objects and lists
  never match.
- A missing value does not match, so its `not` matches. In a binary payload every value is missing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec

from busway.domain import times
from busway.domain.event import Attribute, Event, NewEvent

MAX_DEPTH = 16
MAX_COMPARISONS = 256
MAX_TEXT = 16_384  # characters of all names and values of one filter together

_NAME = re.compile(r"[a-z0-9]{1,20}", re.ASCII)
_POSITION = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)
_DIALECTS = ("exact", "prefix", "suffix", "all", "any", "not")
_EXAMPLE = '{"exact": {"data.customer.country": "NO"}}'
_OURS = frozenset({"seq", "runs"})
_MISSING: Final = object()
_UNREAD: Final = object()
_decode = msgspec.json.Decoder().decode


class FilterError(ValueError):
    """The filter is invalid. The message says where, and what to write instead."""


class View:
    """An event with its payload, which is decoded on first use and only once."""

    __slots__ = ("_data", "event")

    def __init__(self, event: NewEvent | Event) -> None:
        self.event = event
        self._data: Any = _UNREAD

    @property
    def data(self) -> Any:
        """The decoded payload, `_MISSING` if there is none or it is binary."""
        if self._data is _UNREAD:
            event = self.event
            self._data = _MISSING if event.data is None or event.binary else _decode(event.data)
        return self._data


Test = Callable[[View], bool]
_Get = Callable[[View], Any]


def compile_filter(value: Any) -> Test:
    """Validate a filter and compile it into one predicate.

    Args:
        value: the filter as decoded JSON.

    Raises:
        FilterError: the filter is invalid or exceeds a limit.
    """
    return _Compiler().filter(value, "", 1)


def count_comparisons(value: Any) -> int:
    """Return how many comparisons a valid filter may make for one event."""
    ((dialect, operand),) = value.items()
    if dialect == "not":
        return count_comparisons(operand)
    if dialect in {"all", "any"}:
        return sum(map(count_comparisons, operand))
    return len(operand)


class _Compiler:
    """Compiles one filter and counts down its limits."""

    def __init__(self) -> None:
        self._comparisons = MAX_COMPARISONS
        self._text = MAX_TEXT

    def filter(self, value: Any, place: str, depth: int) -> Test:
        if depth > MAX_DEPTH:
            raise FilterError(f"the filter is nested deeper than {MAX_DEPTH} levels: flatten it")
        dialect, operand = _one(value, place)
        place = f"{place}.{dialect}".lstrip(".")
        if dialect == "not":
            return _negated(self.filter(operand, place, depth + 1))
        if dialect in {"all", "any"}:
            parts = [
                self.filter(part, f"{place}[{index}]", depth + 1)
                for index, part in enumerate(self._several(operand, place))
            ]
            return _every(parts) if dialect == "all" else _some(parts)
        return self._compared(dialect, operand, place)

    def _several(self, operand: Any, place: str) -> Sequence[Any]:
        if not isinstance(operand, list | tuple):
            raise _wrong(place, "expected a list of filters")
        if not operand:
            raise _wrong(place, "the list is empty: add filters, or remove it")
        if len(operand) > MAX_COMPARISONS:
            raise _too_many()
        return operand

    def _compared(self, dialect: str, operand: Any, place: str) -> Test:
        if not isinstance(operand, dict):
            raise _wrong(place, f"expected an object of names and values, such as {_EXAMPLE}")
        if not operand:
            raise _wrong(place, f"the object is empty: add names and values, such as {_EXAMPLE}")
        if len(operand) > self._comparisons:
            raise _too_many()
        self._comparisons -= len(operand)
        return _every([self._comparison(dialect, *pair, place) for pair in operand.items()])

    def _comparison(self, dialect: str, name: Any, value: Any, place: str) -> Test:
        if not isinstance(name, str):
            raise _wrong(place, "names must be strings")
        self._text -= len(name) + (len(value) if isinstance(value, str) else 0)
        if self._text < 0:
            raise FilterError(
                f"the filter has more than {MAX_TEXT} characters of names and values: shorten it"
            )
        path = name.split(".")
        if path[0] == "data":
            _check_payload_value(dialect, value, name, place)
            return _DATA_TESTS[dialect](_walk(path[1:], name, place), value)
        _check_attribute(name, value, place)
        if name == "time" and dialect == "exact":
            value = _moment(value, place)
        return _ATTRIBUTE_TESTS[dialect](_attribute(name), value)


def _one(value: Any, place: str) -> tuple[str, Any]:
    """Return the dialect of a filter and its operand."""
    if not isinstance(value, dict):
        raise _wrong(place, f"a filter must be an object, such as {_EXAMPLE}")
    if not value:
        raise _wrong(place, f"a filter must not be empty: remove it, or write one such as {_EXAMPLE}")
    for dialect in value:
        if dialect not in _DIALECTS:
            raise _wrong(place, f"unknown dialect {_short(dialect)}: use one of {', '.join(_DIALECTS)}")
    if len(value) > 1:
        parts = ", ".join(f'{{"{dialect}": …}}' for dialect in value)
        raise _wrong(place, f'a filter must have one dialect: combine several as {{"all": [{parts}]}}')
    ((dialect, operand),) = value.items()
    return dialect, operand


def _check_attribute(name: str, value: Any, place: str) -> None:
    if not _NAME.fullmatch(name) or name in _OURS:
        raise _wrong(
            place,
            f"{_short(name)} is neither an attribute name (1 to 20 of a-z and 0-9) nor a payload path "
            "such as data.customer.country",
        )
    if not isinstance(value, str) or not value:
        raise _wrong(place, f"the attribute {name} must be compared with a string that is not empty")
    _check_unicode(value, place)


def _check_payload_value(dialect: str, value: Any, name: str, place: str) -> None:
    if dialect != "exact":
        if not isinstance(value, str) or not value:
            raise _wrong(place, f"{_short(name)} must be compared with a string that is not empty")
    elif not _scalar(value):
        raise _wrong(
            place,
            f"{_short(name)} must be compared with a string, a number of at most 64 bits, a boolean or null: "
            "use a path to compare values in objects and lists",
        )
    if isinstance(value, str):
        _check_unicode(value, place)


def _scalar(value: Any) -> bool:
    if isinstance(value, int):
        return -(1 << 63) <= value < 1 << 64  # every encoding in use can carry these
    return value is None or isinstance(value, str) or (isinstance(value, float) and math.isfinite(value))


def _check_unicode(value: str, place: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _wrong(place, "the text is not valid Unicode (a lone surrogate)") from None


def _moment(value: str, place: str) -> str:
    """Return a time in the form that events use."""
    try:
        return times.to_text(times.from_text(value))
    except (ValueError, OverflowError) as problem:
        raise _wrong(place, f"time: {problem}; use prefix to compare a part of it") from None


def _wrong(place: str, problem: str) -> FilterError:
    return FilterError(f"{_cut(place, 200)}: {problem}" if place else problem)


def _too_many() -> FilterError:
    return FilterError(
        f"a filter has at most {MAX_COMPARISONS} comparisons: use type patterns, or several filters"
    )


def _short(value: Any) -> str:
    return repr(_cut(value, 40) if isinstance(value, str) else value)[:60]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[:most]}…"


# -- predicates


def _negated(part: Test) -> Test:
    return lambda view: not part(view)


def _every(parts: list[Test]) -> Test:
    if len(parts) == 1:
        return parts[0]

    def test(view: View) -> bool:
        for part in parts:  # noqa: SIM110 - a generator takes twice the time
            if not part(view):
                return False
        return True

    return test


def _some(parts: list[Test]) -> Test:
    if len(parts) == 1:
        return parts[0]

    def test(view: View) -> bool:
        for part in parts:  # noqa: SIM110 - as above
            if part(view):
                return True
        return False

    return test


_ATTRIBUTES: dict[str, _Get] = {
    "specversion": lambda _view: "1.0",
    "id": lambda view: view.event.id,
    "source": lambda view: view.event.source,
    "type": lambda view: view.event.type,
    "subject": lambda view: view.event.subject,
    "time": lambda view: times.to_text(view.event.time),
    "datacontenttype": lambda view: view.event.datacontenttype,
    "correlationid": lambda view: view.event.correlationid,
}


def _attribute(name: str) -> _Get:
    known = _ATTRIBUTES.get(name)
    return known or (lambda view: _attribute_text(view.event.attributes.get(name)))


def _attribute_text(value: Attribute | None) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value) if isinstance(value, int) else value


def _walk(path: list[str], name: str, place: str) -> _Get:
    """Compile a path into the payload."""
    if "" in path:
        raise _wrong(place, f"{_short(name)} has an empty segment: write a key or an index between two dots")
    steps = [(step, int(step) if _POSITION.fullmatch(step) else -1) for step in path]

    def get(view: View) -> Any:
        value = view.data
        for key, position in steps:
            if type(value) is dict:
                value = value.get(key, _MISSING)
            elif type(value) is list and 0 <= position < len(value):
                value = value[position]
            else:
                return _MISSING
        return value

    return get


def _equal_data(get: _Get, expected: Any) -> Test:
    if expected is None or isinstance(expected, bool):
        return lambda view: get(view) is expected
    if isinstance(expected, str):
        return lambda view: bool(get(view) == expected)
    return lambda view: not isinstance(value := get(view), bool) and bool(value == expected)


_DATA_TESTS: dict[str, Callable[[_Get, Any], Test]] = {
    "exact": _equal_data,
    "prefix": lambda get, start: lambda view: isinstance(v := get(view), str) and v.startswith(start),
    "suffix": lambda get, end: lambda view: isinstance(v := get(view), str) and v.endswith(end),
}
_ATTRIBUTE_TESTS: dict[str, Callable[[_Get, str], Test]] = {
    "exact": lambda get, expected: lambda view: bool(get(view) == expected),
    "prefix": _DATA_TESTS["prefix"],
    "suffix": _DATA_TESTS["suffix"],
}
