"""Groups of live subscriptions with equal selections, and the evaluation of their filters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Generic, TypeVar

from busway.gateway.subscribers.encoding import Entry
from busway.gateway.subscribers.ring import event_bytes
from busway.gateway.subscribers.selection import Selection, compiled, view_of
from busway.gateway.subscribers.session import Subscription

FILTER_BYTES = 512 * 1024  # bytes of events that filters check in one iteration of the loop
Receiver = TypeVar("Receiver")


class Group(Generic[Receiver]):
    """Subscriptions that share checks and encoded pieces.

    Attributes:
        matches: the selection without its filter.
        cost: how many comparisons one result may take.
    """

    __slots__ = ("cost", "matches", "members", "selection", "test")

    def __init__(self, selection: Selection) -> None:
        self.selection = selection
        found = compiled(selection)
        self.matches, self.test, self.cost = found.matches, found.test, found.cost
        self.members: dict[Subscription, Receiver] = {}


class Picked:
    """A predicate: the results that a filter matched."""

    def __init__(self) -> None:
        self.numbers: set[int] = set()

    def __call__(self, entry: Entry) -> bool:
        """Return whether the filter matched this result."""
        return entry.result.number in self.numbers


def pick(groups: Iterable[Group[Receiver]], entries: list[Entry]) -> dict[Group[Receiver], Picked]:
    """Evaluate the filter of each group for each result. Each event is decoded at most once.

    Args:
        groups: groups with a filter.
        entries: in log order, all `ready`.
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
    """Return the leading entries that have their event, up to `FILTER_BYTES` of events."""
    event, size = None, 0
    for count, entry in enumerate(entries):
        if entry.event is None or size > FILTER_BYTES:
            return entries[:count]
        if entry.event is not event:
            event = entry.event
            size += event_bytes(event)
    return entries
