"""Selections: which results a subscription gets, as a comparable value and as a predicate."""

from __future__ import annotations

import functools
from collections.abc import Callable

import msgspec

from busway.contract.frames import Selects
from busway.domain.filter import Test, View, compile_filter
from busway.domain.pattern import matcher
from busway.gateway.subscribers.encoding import Entry

Predicate = Callable[[Entry], bool]


class Selection(msgspec.Struct, frozen=True):
    """The criteria of a subscription. An empty field selects all results. `filter` is JSON text.

    Subscriptions with equal selections share encoded frames.
    """

    types: tuple[str, ...] = ()
    handlers: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()
    correlationid: str | None = None
    filter: str | None = None


def select(wanted: Selects) -> Selection:
    """Return a selection in normal form: equivalent requests give equal selections."""
    types, filter_ = set(wanted.types or ()), wanted.filter
    return Selection(
        () if "**" in types else tuple(sorted(types)),
        frozenset(wanted.handlers or ()),
        frozenset(wanted.kinds or ()),
        wanted.correlationid,
        None if filter_ is None else msgspec.json.encode(filter_, order="sorted").decode(),
    )


def predicate(selection: Selection) -> Predicate:
    """Compile a selection for one pass over the log: the predicate caches the last decoded event.

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
    """Return the filter view of a result's event. Reuse `last` if it has the same event."""
    event = entry.event
    if event is None:
        raise RuntimeError(f"a filter needs the event of result {entry.result.number}, which is missing")
    return last if last is not None and last.event is event else View(event)


def filter_test(selection: Selection) -> Test | None:
    """Return the compiled filter of a selection, or None."""
    return None if selection.filter is None else _compiled(selection.filter)


@functools.lru_cache(maxsize=256)  # smaller than for patterns: filters may be long
def _compiled(text: str) -> Test:
    return compile_filter(msgspec.json.decode(text))


def plain_predicate(selection: Selection) -> Predicate:
    """Compile a selection without its filter."""
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
