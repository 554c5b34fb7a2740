"""Live subscriptions with equal selections, and what filters pick for them out of what a commit brought."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

from busway.gateway.subscribers.encoding import Entry
from busway.gateway.subscribers.ring import event_bytes
from busway.gateway.subscribers.selection import Selection, filter_test, plain_predicate, view_of
from busway.gateway.subscribers.session import Subscription

FILTER_BYTES = 4 * 1024 * 1024  # of events that filters look at in one turn of the loop
Receiver = TypeVar("Receiver")


class Group(Generic[Receiver]):
    """Members share what is looked at and encoded; `matches` is the selection but for its filter, `test`."""

    __slots__ = ("matches", "members", "selection", "test")

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        self.matches = plain_predicate(selection)
        self.test = filter_test(selection)
        self.members: dict[Subscription, Receiver] = {}


class Picked:
    """The results that a filter picked, as a predicate."""

    def __init__(self) -> None:
        self.numbers: set[int] = set()

    def __call__(self, entry: Entry) -> bool:
        """Tell whether a result was picked."""
        return entry.result.number in self.numbers


def pick(groups: Iterable[Group[Receiver]], entries: list[Entry]) -> dict[Group[Receiver], Picked]:
    """Evaluate the filter of each group once a result; each event is decoded at most once for all of them.

    Args:
        groups: those that have filters.
        entries: in log order, all `ready` for filters.
    """
    found = {group: Picked() for group in groups}
    view = None
    for entry in entries:
        for group, picked in found.items():
            if group.test and group.matches(entry):
                view = view_of(entry, view)
                if group.test(view):
                    picked.numbers.add(entry.result.number)
    return found


def ready(entries: list[Entry]) -> list[Entry]:
    """Return the first entries, as many as filters can look at in one turn: their events are at hand."""
    event, size = None, 0
    for count, entry in enumerate(entries):
        if entry.event is None or size > FILTER_BYTES:
            return entries[:count]
        if entry.event is not event:
            event = entry.event
            size += event_bytes(event)
    return entries
