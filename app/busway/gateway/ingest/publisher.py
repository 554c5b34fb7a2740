"""The publisher: matches events to handlers and stores them with their runs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Protocol

from busway.contract.checking import MOST
from busway.contract.events import Receipt
from busway.contract.problems import BadField
from busway.domain.event import NewEvent
from busway.domain.handler import Rules
from busway.domain.pattern import Matcher
from busway.gateway.errors import STARTING, Forbidden, Unavailable
from busway.gateway.ingest.codecs.plain import PLAIN
from busway.gateway.ingest.codecs.port import Codec, Headers
from busway.gateway.ingest.idempotency import AcceptingOnce, Ending, KeysUnderWay, digest
from busway.gateway.ingest.reading import outside
from busway.gateway.store.port.commits import Commits, Waiter
from busway.gateway.store.port.once import Once
from busway.gateway.store.port.operations import Publish, StoredEvent
from busway.gateway.turns import Line, Steps, Turns

LARGE = 262_144  # bytes of a body from which on its events are encoded slice by slice
_Encoded = list[tuple[int, bytes]]
_Accepted = tuple[list[NewEvent], bool, _Encoded | None]


def receipt(event: NewEvent, stored: StoredEvent) -> Receipt:
    """Return the public receipt of a stored event."""
    runs = 0 if stored.duplicate else len(event.handlers)
    return Receipt(stored.seq, event.id, event.source, event.type, runs, stored.duplicate)


def _check_types(events: list[NewEvent], allowed: Matcher, *, many: bool) -> None:
    """Check the types of events against the patterns of the key.

    Raises:
        Forbidden: one or more do not match. `errors` names them.
    """
    bad = [
        BadField(["body", at, "type"] if many else ["body", "type"], outside(event.type))
        for at, event in enumerate(events)
        if not allowed(event.type)
    ]
    if bad:
        raise Forbidden.of(bad[:MOST])


def _fail(waiter: Accepting, problem: BaseException) -> None:
    if not waiter.done():
        waiter.set_exception(problem)


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
        turns: as given.
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
        self._max_event_bytes, self.turns = max_event_bytes, turns
        self._under_way = KeysUnderWay()
        self.closed: str | None = STARTING

    def submit(
        self,
        body: bytes,
        waiter: Accepting,
        line: Line | None = None,
        codec: Codec = PLAIN,
        headers: Headers = (),
        allowed: Matcher | None = None,
    ) -> None:
        """Submit the events of a body to the store, all or none, with the runs that they start.

        A large body, and many comparisons of filters, are done in steps, in later turns of the loop.

        Args:
            body: of a request.
            waiter: receives the events, then the reply of the store.
            line: bodies that are submitted before this one.
            codec: reads the body.
            headers: of the request, for a codec that reads them.
            allowed: which event types its key may publish. None: all.

        Raises:
            Forbidden: an event has a type that is not allowed. Nothing is stored.
            BadRequest, Invalid, TooLarge: the body is invalid. Nothing is stored. The waiter receives it
                instead if the work takes several steps.
            Unavailable: the gateway is starting, draining or overloaded. Nothing is stored.
                If the waiter receives it, the outcome is unknown.
        """
        if self.closed:
            raise Unavailable(self.closed)
        self.turns.start(self._steps(body, waiter, codec, headers, allowed), partial(_fail, waiter), line)

    def submit_event(self, event: NewEvent, waiter: Accepting) -> None:
        """Submit one valid event, as `submit` does."""
        if self.closed:
            raise Unavailable(self.closed)
        self.turns.start(self._event_steps(event, waiter), partial(_fail, waiter))

    def _event_steps(self, event: NewEvent, waiter: Accepting) -> Steps[None]:
        edition = None
        while edition is not self._rules.edition:  # as in `_whole`
            edition = self._rules.edition
            yield from self._rules.match_all([event])
        waiter.accepted([event], False)
        self._commits.submit(Publish(rules=self._rules.version, events=[event]), waiter)

    def submit_once(
        self,
        body: bytes,
        waiter: AcceptingOnce,
        once: Once,
        codec: Codec,
        headers: Headers,
        allowed: Matcher | None = None,
    ) -> None:
        """Submit the events of a body as `submit` does, unless its idempotency key was used before.

        Args:
            body: of a request.
            waiter: receives the events, then the reply of the store.
            once: the key. It gets the digest of the request.
            codec: reads the body.
            headers: of the request.
            allowed: as for `submit`.

        Raises:
            Conflict: the first request with the key is under way on this node.
            Forbidden, BadRequest, Invalid, TooLarge, Unavailable: as from `submit`.
        """
        if self.closed:
            raise Unavailable(self.closed)
        steps = self._steps_once(body, waiter, once, codec, headers, allowed)
        self.turns.start(steps, partial(_fail, waiter))

    def _steps_once(
        self,
        body: bytes,
        waiter: AcceptingOnce,
        once: Once,
        codec: Codec,
        headers: Headers,
        allowed: Matcher | None,
    ) -> Steps[None]:
        once.digest = yield from digest(headers, body)
        end = self._under_way.begin(once)
        try:
            yield from self._steps(body, Ending(waiter, end), codec, headers, allowed, once)
        except BaseException:
            end()
            raise

    def _steps(
        self,
        body: bytes,
        waiter: Accepting,
        codec: Codec = PLAIN,
        headers: Headers = (),
        allowed: Matcher | None = None,
        once: Once | None = None,
    ) -> Steps[None]:
        read = self._whole if len(body) <= LARGE else self._in_slices
        events, many, encoded = yield from read(body, codec, headers, allowed)
        del body
        waiter.accepted(events, many)
        if not events:
            waiter.set_result([])
            return
        if self.closed:
            raise Unavailable(self.closed)
        operation = Publish(rules=self._rules.version, once=once, events=events)
        self._commits.submit(operation, waiter, encoded)

    def _whole(
        self, body: bytes, codec: Codec, headers: Headers, allowed: Matcher | None
    ) -> Steps[_Accepted]:
        events, many = yield from codec.read(headers, body, self._clock(), self._max_event_bytes, None)
        if allowed is not None:
            _check_types(events, allowed, many=many)
        edition = None
        while edition is not self._rules.edition:  # a handler that was deleted meanwhile gets no run
            edition = self._rules.edition
            yield from self._rules.match_all(events)
        return events, many, None

    def _in_slices(
        self, body: bytes, codec: Codec, headers: Headers, allowed: Matcher | None
    ) -> Steps[_Accepted]:
        """Read, match and encode each slice before the next one, because decoded events take much memory."""
        encoded: _Encoded = []

        def take(events: list[NewEvent]) -> Steps[None]:
            encoded.append((yield from self._encoded(events)))

        edition = self._rules.edition
        events, many = yield from codec.read(headers, body, self._clock(), self._max_event_bytes, take)
        if allowed is not None:
            _check_types(events, allowed, many=many)
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
