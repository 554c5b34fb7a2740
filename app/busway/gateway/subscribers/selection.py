"""What a subscription wants of the result log: a value that compares, and the predicate it stands for."""

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
    """Equal selections share their encoded frames; an empty field wants all. `filter` is JSON text."""

    types: tuple[str, ...] = ()
    handlers: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()
    correlationid: str | None = None
    filter: str | None = None


def select(wanted: Selects) -> Selection:
    """Return what is wanted, in the one form that equal wishes have."""
    types, filter_ = set(wanted.types or ()), wanted.filter
    return Selection(
        () if "**" in types else tuple(sorted(types)),
        frozenset(wanted.handlers or ()),
        frozenset(wanted.kinds or ()),
        wanted.correlationid,
        None if filter_ is None else msgspec.json.encode(filter_, order="sorted").decode(),
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
