"""The publisher: matches events to handlers and stores them with their runs."""

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
    """Return the public receipt of a stored event."""
    runs = 0 if stored.duplicate else len(event.handlers)
    return Receipt(stored.seq, event.id, event.source, event.type, runs, stored.duplicate)


class Publisher:
    """Accepts events.

    Args:
        commits: writes to the store.
        rules: matches events to handlers.
        clock: returns microseconds since 1970.
        max_event_bytes: maximum size of one event.

    Attributes:
        closed: why no events are accepted now, None while they are.
    """

    def __init__(
        self, commits: Commits, rules: Rules, clock: Callable[[], int], max_event_bytes: int
    ) -> None:
        self._commits, self._rules, self._clock = commits, rules, clock
        self._max_event_bytes = max_event_bytes
        self.closed: str | None = STARTING

    def submit(self, body: bytes, waiter: Waiter[list[StoredEvent]]) -> tuple[list[NewEvent], bool]:
        """Submit the events of a JSON body to the store, all or none, with the runs that they start.

        Args:
            body: JSON text.
            waiter: receives the reply of the store.

        Returns:
            The events, and whether the body is an array.

        Raises:
            BadRequest, Invalid, TooLarge: the body is invalid. Nothing is stored.
            Unavailable: the gateway is starting, draining or overloaded. Nothing is stored.
                If the waiter receives it, the outcome is unknown.
        """
        if self.closed:
            raise Unavailable(self.closed)
        events, many = read_events(body, self._clock(), self._max_event_bytes)
        match = self._rules.match
        for event in events:
            event.handlers = match(event)
        self._commits.submit(Publish(events=events), waiter)
        return events, many
