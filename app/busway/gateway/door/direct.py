"""The port between the HTTP protocol and what answers requests without ASGI in between."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec

Headers = list[tuple[bytes, bytes]]


class Head:
    """The head of a request. Requests whose heads are the same byte for byte may share one.

    `headers`: names in lower case, and values. `admitted`: for whoever admits, None in a new one.
    """

    __slots__ = ("admitted", "headers")

    def __init__(self, headers: Headers) -> None:
        self.headers = headers
        self.admitted: object = None


class Answer(msgspec.Struct, frozen=True, gc=False):
    """A whole response; `lines` are its header lines as they go out."""

    status: int
    lines: bytes
    body: bytes


def line(header: tuple[bytes, bytes]) -> bytes:
    """Return a header as it goes out."""
    return b"%b: %b\r\n" % header


Respond = Callable[[Answer], None]


class Direct(Protocol):
    """What answers the POSTs to one path. `max_body` in bytes, `idle` in seconds without one of them."""

    path: str
    max_body: int
    idle: float

    def admit(self, head: Head) -> Answer | None:
        """Answer a request whose body is not wanted; None to have the body read."""

    def take(self, head: Head, body: bytes, respond: Respond) -> None:
        """Answer an admitted request, now or later; who is gone by then hears nothing."""

    def too_large(self, head: Head) -> Answer:
        """Answer a request whose body has more bytes than `max_body`."""

    def too_slow(self, head: Head) -> Answer:
        """Answer a request of whose body nothing came for `idle` seconds."""
