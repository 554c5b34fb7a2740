"""The publisher: matches events to handlers and stores them with their runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from busway.contract.events import Receipt
from busway.domain.event import NewEvent
from busway.domain.handler import Rules
from busway.gateway.errors import STARTING, Unavailable
from busway.gateway.ingest.reading import read_events
from busway.gateway.store.port.commits import Commits, Waiter
from busway.gateway.store.port.operations import Publish, StoredEvent
from busway.gateway.turns import Line, Steps, Turns

LARGE = 262_144  # bytes of a body from which on its events are encoded slice by slice
_Encoded = list[tuple[int, bytes]]
_Accepted = tuple[list[NewEvent], bool, _Encoded | None]


def receipt(event: NewEvent, stored: StoredEvent) -> Receipt:
    """Return the public receipt of a stored event."""
    runs = 0 if stored.duplicate else len(event.handlers)
    return Receipt(stored.seq, event.id, event.source, event.type, runs, stored.duplicate)


class Accepting(Waiter[list[StoredEvent]], Protocol):
    """Receives the reply of the store, and before it the events that were accepted."""

    def accepted(self, events: list[NewEvent], many: bool) -> None:
        """Receive the events. `many`: the body is an array."""


class EventWaiter:
    """Makes the reply a future, `stored`. `events` has the events from then on."""

    def __init__(self, stored: asyncio.Future[list[StoredEvent]]) -> None:
        self.stored = stored
        self.events: list[NewEvent] = []
        self.done = stored.done
        self.set_result = stored.set_result
        self.set_exception = stored.set_exception

    def accepted(self, events: list[NewEvent], many: bool) -> None:  # noqa: ARG002 - the port's
        """Keep the events."""
        self.events = events


class Publisher:
    """Accepts events.

    Args:
        commits: writes to the store.
        rules: matches events to handlers.
        clock: returns microseconds since 1970.
        max_event_bytes: maximum size of one event.
        turns: for bodies that take several steps.

    Attributes:
        closed: why no events are accepted now, None while they are.
    """

    def __init__(
        self,
        commits: Commits,
        rules: Rules,
        clock: Callable[[], int],
        max_event_bytes: int,
        turns: Turns,
    ) -> None:
        self._commits, self._rules, self._clock = commits, rules, clock
        self._max_event_bytes, self._turns = max_event_bytes, turns
        self.closed: str | None = STARTING

    def submit(self, body: bytes, waiter: Accepting, line: Line | None = None) -> None:
        """Submit the events of a JSON body to the store, all or none, with the runs that they start.

        A large body, and many comparisons of filters, are done in steps, in later turns of the loop.

        Args:
            body: JSON text.
            waiter: receives the events, then the reply of the store.
            line: bodies that are submitted before this one.

        Raises:
            BadRequest, Invalid, TooLarge: the body is invalid. Nothing is stored. The waiter receives it
                instead if the work takes several steps.
            Unavailable: the gateway is starting, draining or overloaded. Nothing is stored.
                If the waiter receives it, the outcome is unknown.
        """
        if self.closed:
            raise Unavailable(self.closed)

        def failed(problem: BaseException) -> None:
            if not waiter.done():
                waiter.set_exception(problem)

        self._turns.start(self._steps(body, waiter), failed, line)

    def _steps(self, body: bytes, waiter: Accepting) -> Steps[None]:
        read = self._whole if len(body) <= LARGE else self._in_slices
        events, many, encoded = yield from read(body)
        del body
        waiter.accepted(events, many)
        if self.closed:
            raise Unavailable(self.closed)
        self._commits.submit(Publish(events=events), waiter, encoded)

    def _whole(self, body: bytes) -> Steps[_Accepted]:
        events, many = yield from read_events(body, self._clock(), self._max_event_bytes)
        edition = None
        while edition is not self._rules.edition:  # a handler that was deleted meanwhile gets no run
            edition = self._rules.edition
            yield from self._rules.match_all(events)
        return events, many, None

    def _in_slices(self, body: bytes) -> Steps[_Accepted]:
        """Read, match and encode each slice before the next one, because decoded events take much memory."""
        encoded: _Encoded = []

        def take(events: list[NewEvent]) -> Steps[None]:
            encoded.append((yield from self._encoded(events)))

        edition = self._rules.edition
        events, many = yield from read_events(body, self._clock(), self._max_event_bytes, take)
        while edition is not self._rules.edition:  # as above
            edition, events = self._rules.edition, []
            for at, (_, part) in enumerate(encoded):
                again = self._commits.decode(part)
                encoded[at] = yield from self._encoded(again)
                events += again
        return events, many, encoded

    def _encoded(self, events: list[NewEvent]) -> Steps[tuple[int, bytes]]:
        """Match events and encode them. Those that start no run keep only what their receipts need."""
        yield from self._rules.match_all(events)
        encoded = len(events), self._commits.encode(events)
        for event in events:
            if not event.handlers:
                event.attributes, event.data = {}, None
        yield
        return encoded
