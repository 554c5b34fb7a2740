"""The way in: checked events and the handlers they match become one store operation."""

from __future__ import annotations

from collections.abc import Callable

from busway.contract.events import Receipt
from busway.domain.event import NewEvent
from busway.domain.handler import Rules
from busway.gateway.errors import STARTING, Unavailable
from busway.gateway.ingest.reading import read_events
from busway.gateway.store.port.commits import Commits, Waiter
from busway.gateway.store.port.operations import Publish, StoredEvent


def receipt(event: NewEvent, stored: StoredEvent) -> Receipt:
    """Return what the publisher of a stored event is told."""
    runs = 0 if stored.duplicate else len(event.handlers)
    return Receipt(stored.seq, event.id, event.source, event.type, runs, stored.duplicate)


class Publisher:
    """Takes events while it is open.

    Args:
        commits: the way into the store.
        rules: which handlers an event starts.
        clock: microseconds since 1970.
        max_event_bytes: the most bytes of one event.
    """

    def __init__(
        self, commits: Commits, rules: Rules, clock: Callable[[], int], max_event_bytes: int
    ) -> None:
        self._commits, self._rules, self._clock = commits, rules, clock
        self._max_event_bytes = max_event_bytes
        self.closed: str | None = STARTING

    def submit(self, body: bytes, waiter: Waiter[list[StoredEvent]]) -> tuple[list[NewEvent], bool]:
        """Have the events of a JSON body stored, all or none, with the runs they start.

        Args:
            body: JSON text.
            waiter: told what became of them, later.

        Returns:
            The events, and whether they came as an array.

        Raises:
            BadRequest, Invalid, TooLarge: the body is not what it must be; nothing is stored.
            Unavailable: starting, draining or overloaded; to the waiter, the outcome is unknown.
        """
        if self.closed:
            raise Unavailable(self.closed)
        events, many = read_events(body, self._clock(), self._max_event_bytes)
        match = self._rules.match
        for event in events:
            event.handlers = match(event)
        self._commits.submit(Publish(events=events), waiter)
        return events, many
