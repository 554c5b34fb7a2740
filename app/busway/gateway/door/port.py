"""The ports between the door and what answers: an endpoint for one POST, and one for WebSockets.

An application offers them as its attributes `publish` and `sockets`. Where it has none, or under another
server, every request is ASGI.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, NamedTuple, Protocol

import msgspec
from msgspec import UNSET, UnsetType

from busway.contract.uploads import UploadResult
from busway.gateway.errors import BuswayError
from busway.gateway.limits import Share

Headers = list[tuple[bytes, bytes]]

LOCAL = "unix"
"""The address of a peer that is connected over a Unix socket."""


class Client(NamedTuple):
    """Who sent a request.

    `address`: an IP address, `LOCAL`, or "" if it is unknown. `scheme` and `host`: `http` or `https`, and the
    Host header, as the client used them; None: as they came.
    """

    address: str
    scheme: str | None = None
    host: bytes | None = None


class Proxies(Protocol):
    """Knows which peers are proxies. An application may have it as its attribute `proxies`."""

    def trusts(self, address: str) -> bool:
        """Return whether the peer with this address is a proxy."""

    def client(self, peer: str, headers: Headers) -> Client:
        """Return who sent a request over a connection of this peer."""


class Head:
    """The head of a request, as far as it matters to an endpoint.

    Requests whose heads agree in everything that matters may share one. `headers`: names in lower case, and
    values, of the headers that the endpoint looks at. `admitted` and `asks`: for the endpoint's own use, None
    in a new one. `streams`: the endpoint takes the body as it arrives, by `open`. Set it while `admitted` is
    None. `share`: what the API key uses, set by the endpoint, None if it has no limits. `address`: what the
    address of the client uses, likewise, known to `open` alone.
    """

    __slots__ = ("address", "admitted", "asks", "headers", "share", "streams")

    def __init__(self, headers: Headers) -> None:
        self.headers = headers
        self.admitted: object = None
        self.share: Share | None = None
        self.address: Share | None = None
        self.streams = False
        self.asks: bool | None = None


class Answer(msgspec.Struct, frozen=True, gc=False):
    """A whole response; `lines` are its header lines as they go out.

    `counts`: as how many requests its request counts.
    """

    status: int
    lines: bytes
    body: bytes
    counts: int = 1


def relevant(names: frozenset[bytes], headers: Headers) -> Headers:
    """Return the headers with these names, and those that carry parts of the event."""
    return [h for h in headers if h[0] in names or h[0].startswith(b"ce-")]


def header_line(header: tuple[bytes, bytes]) -> bytes:
    """Return a header as it goes out."""
    return b"%b: %b\r\n" % header


def problem(error: BuswayError, upload: UploadResult | UnsetType = UNSET) -> Answer:
    """Return an error as a response: a problem document (RFC 9457). `upload` as for `document`."""
    body = error.document(upload)
    lines = [(name.lower().encode(), value.encode()) for name, value in error.headers().items()]
    lines += [(b"content-type", b"application/problem+json"), (b"content-length", b"%d" % len(body))]
    return Answer(error.status, b"".join(map(header_line, lines)), body)


Respond = Callable[[Answer], None]
Hurry = Callable[[], None]


class Intake(Protocol):
    """Takes a body as it arrives.

    `idle`: seconds that the body may stand still. `least`: bytes a second that it must have on average after
    so many seconds, 0 for any. `counted`: it counts the memory that it takes.
    """

    idle: float
    least: int
    counted: bool

    def add(self, part: bytes) -> None:
        """Take a part of the body."""

    def whole(self) -> Hurry | None:
        """The body is complete. Return as `Endpoint.take` does."""

    def too_slow(self) -> Answer:
        """Return the answer for a body that did not come in time. Nothing follows."""

    def disconnect(self) -> None:
        """The client is gone, or its body cannot be read on. Nothing follows, and no answer is needed."""

    def end_with_response(self) -> None:
        """The server stops."""


class Endpoint(Protocol):
    """Answers the POSTs to one path.

    `looks_at`: the headers that it reads, in lower case. It is given no others but those that begin with
    `ce-`, which carry parts of the event, and `carries`, which may differ from request to request, too: the
    answer to `admit` must not depend on these. `max_body`: bytes.
    `idle`, `least`: as of an `Intake`, for a body that it does not take as it arrives.
    """

    path: str
    looks_at: frozenset[bytes]
    carries: frozenset[bytes]
    max_body: int
    idle: float
    least: int

    def admit(self, head: Head) -> Answer | None:
        """Answer a request whose body is not wanted; None to have the body read."""

    def take(self, head: Head, body: bytes, respond: Respond) -> Hurry | None:
        """Answer an admitted request by one call of `respond`, now or later.

        Return what to call when the client sends no more or is gone, if the answer may take long. It has no
        effect once the request is answered.
        """

    def open(self, head: Head, respond: Respond, unread: Callable[[int], None]) -> Intake:
        """Take the body of a request whose head has `streams` as it arrives, however long it is.

        `respond` is called once, also before the body is complete. `unread` is called with the number of
        bytes that wait: while there are many, nothing more should be read.
        """

    def too_large(self, head: Head) -> Answer:
        """Answer a request whose body has more bytes than `max_body`."""

    def too_slow(self, head: Head) -> Answer:
        """Answer a request whose body did not come in time."""


class Socket(Protocol):
    """An open WebSocket.

    `transport`: the server's, None where it is unknown. `subprotocol`: the chosen one. `share`: what the
    address of the client uses, None if it has no limits. A client that is gone is an OSError, or nothing at
    all.
    """

    transport: Any
    subprotocol: str | None
    share: Share | None

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
    """Serves the WebSockets at one path.

    `subprotocols`: those that it speaks; the first one that the client offers is chosen. `max_message`: bytes
    of a message of the client.
    """

    path: str
    subprotocols: tuple[str, ...]
    max_message: int

    def admit(self, headers: Headers, query: bytes) -> Answer | Serve:
        """Return what serves the socket once it is open, or answer the handshake with a refusal."""
