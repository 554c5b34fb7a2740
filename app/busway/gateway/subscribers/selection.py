"""What a subscription wants of the result log: a value that compares, and the predicate it stands for."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from busway.domain.filter import FilterError, Test, View, compile_filter
from busway.domain.handler import NAME
from busway.domain.pattern import PatternError, check_pattern, matcher
from busway.domain.result import KINDS
from busway.domain.text import check_name
from busway.gateway.errors import BadFilter, BadPattern, BadSubscription
from busway.gateway.subscribers.encoding import Entry

MAX_VALUES = 100
Predicate = Callable[[Entry], bool]


class Selection(msgspec.Struct, frozen=True):
    """Equal selections share their encoded frames; an empty field wants all. `filter` is JSON text."""

    types: tuple[str, ...] = ()
    handlers: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()
    correlationid: str | None = None
    filter: str | None = None


def select(fields: Mapping[str, Any]) -> Selection:
    """Check `types`, `handlers`, `kinds`, `correlationid` and `filter`, be it of a frame or a query string.

    Raises:
        BadPattern: one of `types` is no pattern.
        BadFilter: `filter` is none.
        BadSubscription: another value is not what it must be.
    """
    types = _texts(fields, "types", 'a list of type patterns, such as ["order.*"]')
    handlers = _texts(fields, "handlers", 'a list of names of handlers, such as ["invoice"]')
    kinds = _texts(fields, "kinds", f"a list of {', '.join(sorted(KINDS))}")
    correlationid = fields.get("correlationid")
    try:
        patterns = {check_pattern(pattern) for pattern in types}
        if correlationid is not None:
            _correlationid(correlationid)
    except PatternError as problem:
        raise BadPattern(str(problem)) from None
    for name in handlers:
        if not NAME.fullmatch(name):
            raise BadSubscription(f"{name!r} is no name of a handler: 1 to 63 of a-z, 0-9, '-' and '_'")
    for kind in kinds:
        if kind not in KINDS:
            raise BadSubscription(f"{kind!r} is no kind of result: use {', '.join(sorted(KINDS))}")
    everything = "**" in patterns
    return Selection(
        () if everything else tuple(sorted(patterns)),
        frozenset(handlers),
        frozenset(kinds),
        correlationid,
        _filter_text(fields.get("filter")),
    )


def predicate(selection: Selection) -> Predicate:
    """Compile a selection for one look at a stretch of the log: it keeps the event last looked at.

    With a filter, the entries must have their events.
    """
    matches, test = plain_predicate(selection), filter_test(selection)
    if test is None:
        return matches
    view: View | None = None

    def matches_filter(entry: Entry) -> bool:
        nonlocal view
        if not matches(entry):
            return False
        view = view_of(entry, view)
        return test(view)

    return matches_filter


def view_of(entry: Entry, last: View | None) -> View:
    """Return the event of a result as filters see it; `last` if it is that one's, decoded already."""
    event = entry.event
    if event is None:
        raise RuntimeError(f"a filter looks at result {entry.result.number}, whose event is not at hand")
    return last if last is not None and last.event is event else View(event)


def filter_test(selection: Selection) -> Test | None:
    """Return the compiled filter of a selection, if it has one."""
    return None if selection.filter is None else _compiled(selection.filter)


@functools.lru_cache(maxsize=256)  # filters may be long, patterns not
def _compiled(text: str) -> Test:
    return compile_filter(msgspec.json.decode(text))


def plain_predicate(selection: Selection) -> Predicate:
    """Compile a selection but for its filter."""
    return _plain(selection.types, selection.handlers, selection.kinds, selection.correlationid)


@functools.lru_cache(maxsize=4096)
def _plain(
    types: tuple[str, ...], handlers: frozenset[str], kinds: frozenset[str], correlationid: str | None
) -> Predicate:
    completed = "completed" in kinds
    type_matches = matcher(types)

    def matches(entry: Entry) -> bool:
        result = entry.result
        event = result.event
        return (
            (correlationid is None or event.correlationid == correlationid)
            and (not handlers or result.handler in handlers)
            and (not kinds or result.kind in kinds or (completed and result.completes is not None))
            and type_matches(event.type)
        )

    return matches


def _texts(fields: Mapping[str, Any], name: str, form: str) -> list[str]:
    values = fields.get(name)
    if values is None:
        return []
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise BadSubscription(f"{name!r} is {form}")
    if len(values) > MAX_VALUES:
        raise BadSubscription(f"{name!r} has at most {MAX_VALUES} values: open several subscriptions")
    return values


def _filter_text(value: Any) -> str | None:
    """Return the filter in the one form that equal filters have, so that they share a group."""
    if value is None:
        return None
    try:
        compile_filter(value)
    except FilterError as problem:
        raise BadFilter(str(problem)) from None
    return msgspec.json.encode(value, order="sorted").decode()


def _correlationid(value: Any) -> None:
    if not isinstance(value, str):
        raise BadSubscription("'correlationid' is text or null")
    try:
        check_name(value, "a correlationid")
    except ValueError as problem:
        raise BadSubscription(str(problem)) from None
