"""Connections as the hub sees them, and the end of those whose access ends."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from busway.domain.times import SECOND
from busway.gateway.access.scopes import Access
from busway.gateway.subscribers.ring import Piece
from busway.gateway.subscribers.session import Subscription

NOT_ALLOWED = 4401
REVOKED = "the API key or token is missing, revoked or expired"
_LONGEST = 3600.0  # seconds: a timer measures by another clock than that of `until`


class Sink(Protocol):
    """A connection."""

    @property
    def access(self) -> Access:
        """The access of its client, which may change."""

    def push(self, subscription: Subscription, piece: Piece) -> bool:
        """Send the piece now. Return False, and send nothing, if the socket is busy."""

    def lag(self, subscription: Subscription) -> None:
        """Read the log for this subscription until it can `join` again."""

    def close(self, code: int, reason: str, *, flush: bool) -> None:
        """Close soon. With `flush`, first send everything up to the head."""


class Observer(Protocol):
    """Sees what is sent to clients."""

    def __call__(self, items: list[bytes], name: str | None, /) -> None:
        """See encoded results that were sent. `name`: of their subscription, None: in an answer over HTTP."""


class ObservedSink:
    """A connection whose pushed results an observer sees."""

    __slots__ = ("_observer", "_sink", "close", "lag")

    def __init__(self, sink: Sink, observer: Observer) -> None:
        self._sink, self._observer = sink, observer
        self.lag, self.close = sink.lag, sink.close

    @property
    def access(self) -> Access:
        """The access of its client."""
        return self._sink.access

    def push(self, subscription: Subscription, piece: Piece) -> bool:
        """Send the piece now, as the connection does."""
        taken = self._sink.push(subscription, piece)
        if taken and piece.count:
            self._observer(piece.items, subscription.durable or subscription.id)
        return taken


class Expiry:
    """Closes a connection when the access of its client ends.

    Args:
        sink: the connection.
        clock: microseconds since 1970.
    """

    def __init__(self, sink: Sink, clock: Callable[[], int]) -> None:
        self._sink: Sink | None = sink
        self._clock = clock
        self._next: asyncio.TimerHandle | None = None
        self._look()

    def renewed(self) -> None:
        """Go by the access that the client has now."""
        self._cancel()
        self._look()

    def stop(self) -> None:
        """Close nothing any more, and forget the connection, which has this object."""
        self._cancel()
        self._sink = None

    def _cancel(self) -> None:
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def _look(self) -> None:
        sink = self._sink
        if sink is None or sink.access.until is None:
            return
        left = (sink.access.until - self._clock()) / SECOND
        if left > 0:
            self._next = asyncio.get_running_loop().call_later(min(left, _LONGEST), self._look)
        else:
            sink.close(NOT_ALLOWED, ended(sink.access), flush=False)


def ended(access: Access) -> str:
    """Return why a connection whose access has ended is closed."""
    return f"the {access.credential} has expired: connect again with another one"
