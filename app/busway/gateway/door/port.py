"""The ports between the door and what answers: an endpoint for one POST, and one for WebSockets.

An application offers them as its attributes `publish` and `sockets`. Where it has none, or under another
server, every request is ASGI.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol

import msgspec

from busway.gateway.errors import BuswayError

Headers = list[tuple[bytes, bytes]]


class Head:
    """The head of a request, as far as it matters to an endpoint.

    Requests whose heads agree in everything that matters may share one. `headers`: names in lower case, and
    values, of the headers that the endpoint looks at. `admitted`: for the endpoint's own use, None in a
    new one.
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


def header_line(header: tuple[bytes, bytes]) -> bytes:
    """Return a header as it goes out."""
    return b"%b: %b\r\n" % header


def problem(error: BuswayError) -> Answer:
    """Return an error as a response: a problem document (RFC 9457)."""
    body = error.document()
    lines = [(name.lower().encode(), value.encode()) for name, value in error.headers().items()]
    lines += [(b"content-type", b"application/problem+json"), (b"content-length", b"%d" % len(body))]
    return Answer(error.status, b"".join(map(header_line, lines)), body)


Respond = Callable[[Answer], None]


class Endpoint(Protocol):
    """Answers the POSTs to one path.

    `looks_at`: the headers that it reads, in lower case. It is given no others but those that begin with
    `ce-`, which carry parts of the event: the answer to `admit` must not depend on these. `max_body`: bytes.
    `idle`: seconds that a body may stand still.
    """

    path: str
    looks_at: frozenset[bytes]
    max_body: int
    idle: float

    def admit(self, head: Head) -> Answer | None:
        """Answer a request whose body is not wanted; None to have the body read."""

    def take(self, head: Head, body: bytes, respond: Respond) -> None:
        """Answer an admitted request by one call of `respond`, now or later."""

    def too_large(self, head: Head) -> Answer:
        """Answer a request whose body has more bytes than `max_body`."""

    def too_slow(self, head: Head) -> Answer:
        """Answer a request whose body stood still for `idle` seconds."""


class Socket(Protocol):
    """An open WebSocket.

    `transport`: the server's, None where it is unknown. A client that is gone is an OSError, or nothing at
    all.
    """

    transport: Any

    async def receive(self) -> str | bytes | None:
        """Return the next message; None when there are no more."""

    def offer(self, text: str) -> bool:
        """Send text at once if there is room; False, and nothing is sent, if there is none."""

    async def send(self, text: str) -> None:
        """Send text when there is room."""

    async def close(self, code: int, reason: str) -> None:
        """Send a close frame; the reason is cut to what such a frame may hold."""


Serve = Callable[[Socket], Awaitable[None]]


class SocketEndpoint(Protocol):
    """Serves the WebSockets at one path. `max_message`: bytes of a message of the client."""

    path: str
    subprotocol: str
    max_message: int

    def admit(self, headers: Headers, query: bytes) -> Answer | Serve:
        """Return what serves the socket once it is open, or answer the handshake with a refusal."""
