"""Selections: which results a subscription gets, as a comparable value and as a predicate."""

from __future__ import annotations

from collections.abc import Callable
from weakref import WeakKeyDictionary

import msgspec

from busway.contract.frames import Selects
from busway.domain.filter import Test, View, compile_filter, count_comparisons
from busway.domain.pattern import Matcher, matcher
from busway.gateway.subscribers.encoding import Entry

Predicate = Callable[[Entry], bool]

_VALUE = 200  # bytes that a type, a name or a kind takes besides its text
_COMPARISON = 1_600  # bytes that a comparison of a compiled filter takes


class Selection(msgspec.Struct, frozen=True, weakref=True):
    """The criteria of a subscription. An empty field selects all results. `filter` is JSON text.

    `shadow`: results of shadow replays, too.

    Subscriptions with equal selections share encoded frames. `cloudevents`: their items are CloudEvents.
    `within`: patterns that limit the API key. One of them must match, too, unless it is empty.
    """

    types: tuple[str, ...] = ()
    handlers: frozenset[str] = frozenset()
    kinds: frozenset[str] = frozenset()
    correlationid: str | None = None
    filter: str | None = None
    shadow: bool = False
    cloudevents: bool = False
    within: tuple[str, ...] = ()


def select(wanted: Selects, *, cloudevents: bool = False, within: tuple[str, ...] = ()) -> Selection:
    """Return a selection in normal form: equivalent requests give equal selections."""
    types, filter_ = set(wanted.types or ()), wanted.filter
    return Selection(
        () if "**" in types else tuple(sorted(types)),
        frozenset(wanted.handlers or ()),
        frozenset(wanted.kinds or ()),
        wanted.correlationid,
        None if filter_ is None else msgspec.json.encode(filter_, order="sorted").decode(),
        bool(wanted.shadow),
        cloudevents,
        within,
    )


def predicate(selection: Selection) -> Predicate:
    """Compile a selection for one pass over the log: the predicate caches the last decoded event.

    With a filter, the entries must have their events.
    """
    found = compiled(selection)
    matches, test = found.matches, found.test
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


class _Compiled(msgspec.Struct):
    """A selection without its filter as a predicate, its filter, and the comparisons for one result."""

    matches: Predicate
    test: Test | None = None
    cost: int = 1


_known: WeakKeyDictionary[Selection, _Compiled] = WeakKeyDictionary()
"""What is compiled lives as long as a subscription with an equal selection."""


def compiled(selection: Selection) -> _Compiled:
    """Compile a selection, once while one that is equal exists."""
    found = _known.get(selection)
    if found is None:
        found = _known[selection] = _Compiled(_plain(selection))
        if selection.filter is not None:
            filter_ = msgspec.json.decode(selection.filter)
            found.test, found.cost = compile_filter(filter_), 1 + count_comparisons(filter_)
    return found


def size(selection: Selection) -> int:
    """Return approximately how many bytes of memory a selection takes, compiled."""
    texts = (*selection.types, *selection.handlers, *selection.kinds, *selection.within)
    plain = sum(map(len, texts)) + _VALUE * (1 + len(texts))
    if selection.filter is None:
        return plain
    return (
        plain + len(selection.filter) + _COMPARISON * count_comparisons(msgspec.json.decode(selection.filter))
    )


def _plain(selection: Selection) -> Predicate:
    """Compile a selection without its filter."""
    handlers, kinds, correlationid = selection.handlers, selection.kinds, selection.correlationid
    completed = "completed" in kinds
    type_matches, shadow = _type_matcher(selection), selection.shadow

    def matches(entry: Entry) -> bool:
        result = entry.result
        event = result.event
        return (
            (correlationid is None or event.correlationid == correlationid)
            and (not handlers or result.handler in handlers)
            and (not kinds or result.kind in kinds or (completed and result.completes is not None))
            and type_matches(event.type)
            and (result.replay >= 0 or shadow)
        )

    return matches


def _type_matcher(selection: Selection) -> Matcher:
    wanted = matcher(selection.types)
    if not selection.within:
        return wanted
    allowed = matcher(selection.within)
    return lambda type_: allowed(type_) and wanted(type_)


SCAN = 2000  # results checked for one piece of the log: limits one iteration of the event loop
COMPARISONS = 5_000  # likewise


def scan(selection: Selection) -> int:
    """Return how many results may be checked for one piece of the log."""
    return max(1, min(SCAN, COMPARISONS // compiled(selection).cost))
