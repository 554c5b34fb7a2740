"""Idempotency keys: what a key stands for, and those whose first request is under way."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Protocol

from busway.domain.event import NewEvent
from busway.gateway.errors import Conflict, Invalid
from busway.gateway.ingest.codecs.port import Headers
from busway.gateway.store.port.commits import Waiter
from busway.gateway.store.port.once import NotStored, Once
from busway.gateway.store.port.operations import StoredEvent
from busway.gateway.turns import Steps

SLICE = 262_144  # bytes that one step digests


class AcceptingOnce(Waiter[list[StoredEvent] | NotStored], Protocol):
    """As `Accepting`, for a request with an idempotency key."""

    def accepted(self, events: list[NewEvent], many: bool) -> None:
        """Receive the events. `many`: the body is an array."""


def other_request() -> Invalid:
    """Return the error for a key that was sent with another request before."""
    return Invalid(
        "this Idempotency-Key was used for another request: repeat a request unchanged, and send a new one "
        "with a new key"
    )


def digest(headers: Headers, body: bytes) -> Steps[bytes]:
    """Return the digest of a request: of its body, and of the headers that say what the body means."""
    found = hashlib.sha256()
    for name, value in sorted(h for h in headers if h[0] == b"content-type" or h[0].startswith(b"ce-")):
        found.update(b"%d:%b%d:%b" % (len(name), name, len(value), value))
    view = memoryview(body)
    for start in range(0, len(body), SLICE):
        if start:
            yield
        found.update(view[start : start + SLICE])
    return found.digest()


class KeysUnderWay:
    """The keys of requests that this node has not answered yet."""

    def __init__(self) -> None:
        self._digests: dict[tuple[int, str], bytes] = {}

    def begin(self, once: Once) -> Callable[[], object]:
        """Begin a request. Return what to call when it has its answer.

        Raises:
            Conflict: the same request is under way.
            Invalid: another request with this key is under way.
        """
        which = once.owner, once.key
        known = self._digests.get(which)
        if known is None:
            self._digests[which] = once.digest
            return lambda: self._digests.pop(which)
        if known != once.digest:
            raise other_request()
        raise Conflict(
            "the first request with this Idempotency-Key is still in progress: repeat it in a second",
            retry_after=1,
        )


class Ending:
    """Passes everything on to a waiter. Before the reply, its request is not under way any more.

    Args:
        waiter: receives everything.
        end: ends the request.
    """

    def __init__(self, waiter: AcceptingOnce, end: Callable[[], object]) -> None:
        self._waiter, self._end = waiter, end
        self.accepted, self.done = waiter.accepted, waiter.done

    def set_result(self, stored: list[StoredEvent] | NotStored) -> None:
        """Pass on the reply."""
        self._end()
        self._waiter.set_result(stored)

    def set_exception(self, problem: BaseException) -> None:
        """Pass on why there is no reply."""
        self._end()
        self._waiter.set_exception(problem)
