"""One request and its response as an ASGI application sees them (ASGI 3.0, HTTP connection scope 2.3)."""

from __future__ import annotations

import asyncio
import http
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any, Protocol

from busway.gateway.door.deadlines import Times
from busway.gateway.door.flow import Flow
from busway.gateway.door.heads import Request
from busway.gateway.door.holding import Holding
from busway.gateway.door.peer import Peer
from busway.gateway.door.port import Answer, problem
from busway.gateway.errors import BuswayError, RequestTimeout
from busway.gateway.limits import ADDRESS

log = logging.getLogger("busway.door")

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

UNREAD = 65_536  # bytes of a body that wait for the application before reading pauses

_BAD_NAME = re.compile(rb"[^!#$%&'*+.^_`|~0-9A-Za-z-]")
_BAD_VALUE = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")


def late_body(times: Times) -> RequestTimeout:
    """Return the error for a body that does not come in time."""
    return RequestTimeout(
        f"the body did not come in time: nothing of it for {times.body:g} s, or less than {times.least} "
        "bytes a second on average: send it again"
    )


def _status_line(status: int) -> bytes:
    try:
        phrase = http.HTTPStatus(status).phrase
    except ValueError:
        phrase = ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


STATUS_LINES = {status: _status_line(status) for status in range(100, 600)}


class Connection(Protocol):
    """The part of a connection that a cycle uses."""

    transport: asyncio.Transport
    loop: asyncio.AbstractEventLoop
    flow: Flow
    half_closed: bool
    holding: Holding
    default_headers: bytes
    peer: Peer

    def unread(self, size: int) -> None:
        """Note how many bytes of the body wait for the application."""

    def answered(self, *, keep_alive: bool) -> None:
        """Continue after a complete response."""

    def respond(self, answer: Answer, *, body: bool, keep_alive: bool) -> None:
        """Send a complete response, with its body if `body` is true, and continue."""


class Cycle:
    """One request to the application and its response.

    Args:
        connection: carries both.
        request: the head.
        state: of the application's lifespan.
    """

    counted = False

    __slots__ = (
        "_body",
        "_chunked",
        "_complete",
        "_continue",
        "_end_delivered",
        "_gone",
        "_head",
        "_keep_alive",
        "_left",
        "_more",
        "_no_body",
        "_old",
        "_started",
        "_wake",
        "connection",
        "idle",
        "least",
        "scope",
        "transport",
    )  # fmt: skip

    def __init__(self, connection: Connection, request: Request, state: dict[str, Any]) -> None:
        self.connection = connection
        self.transport = connection.transport
        self.scope = _scope(request, connection, state)
        self.scope[ADDRESS] = connection.holding.share
        self.idle, self.least = connection.holding.times.body, connection.holding.times.least
        self._body = bytearray()
        self._more = True
        self._end_delivered = False  # the application has the end of the body
        self._wake: asyncio.Future[None] | None = None
        self._continue = request.expects
        self._keep_alive = request.keep_alive
        self._old = request.version == "1.0"
        self._no_body = request.method == "HEAD"
        self._head: list[bytes] = []  # of the response, until the first part of its body goes with it
        self._chunked = False
        self._left: int | None = None  # bytes to come of a response with a length
        self._started = self._complete = self._gone = False

    @property
    def sized(self) -> bool:
        """Whether the response has a length. Others are streams."""
        return self._left is not None

    @property
    def started(self) -> bool:
        """Whether something of the response went out."""
        return self._started and not self._head

    # -- called by the connection

    def add(self, part: bytes) -> None:
        """Take a part of the request's body."""
        if not self._complete:
            self._body += part
            self.connection.unread(len(self._body))
            self._awake()

    def whole(self) -> None:
        """The request's body is whole."""
        self._more = False
        self._awake()

    def too_slow(self) -> Answer:
        """Return the answer for a body that does not come in time."""
        return problem(late_body(self.connection.holding.times))

    def disconnect(self) -> None:
        """The client is gone."""
        self._gone = True
        self._awake()

    def half_close(self) -> None:
        """The client sends no more; it may still read."""
        self._awake()

    def end_with_response(self) -> None:
        """End the connection behind this response."""
        self._keep_alive = False

    # -- called by the application

    async def run(self, app: Application) -> None:
        """Run the application. An exception becomes a 500, or ends a response that has begun."""
        try:
            await app(self.scope, self.receive, self.send)
            if not (self._complete or self._gone):
                log.error("%s %s has no whole response", self.scope["method"], self.scope["path"])
        except Exception:
            log.exception("%s %s failed", self.scope["method"], self.scope["path"])
        finally:
            if not (self._complete or self._gone):
                self._fail()

    def _fail(self) -> None:
        if self.started:
            self.transport.abort()
            return
        answer = problem(BuswayError("a fault of the gateway: its log says more"))
        self._head.clear()
        self._complete = True
        self.connection.respond(answer, body=not self._no_body, keep_alive=self._keep_alive)

    async def receive(self) -> Message:
        """Return the next part of the body; later, that the client is gone or was answered."""
        if self._continue and not self._started:
            self._continue = False
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        while not (self._gone or self._complete):
            if self._body or not (self._more or self._end_delivered):
                body = bytes(self._body)
                self._body.clear()
                self._end_delivered = not self._more
                self.connection.unread(0)
                return {"type": "http.request", "body": body, "more_body": self._more}
            if self._end_delivered and self.connection.half_closed:
                break  # nobody knows whether a stream, or a long poll, still has a reader: it may end here
            self._wake = self.connection.loop.create_future()
            await self._wake
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        """Send a part of the response, when the socket has room."""
        if not (self.connection.flow.writable or self._gone):
            await self.connection.flow.drained()
        if self._gone:
            return
        if message["type"] == "http.response.start" and not self._started:
            self._begin(message["status"], message.get("headers", ()))
        elif message["type"] == "http.response.body" and self._started and not self._complete:
            self._write(message.get("body", b""), more=message.get("more_body", False))
        else:
            raise RuntimeError(f"{message['type']} is out of turn")

    def _begin(self, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        lines = [STATUS_LINES[status], self.connection.default_headers, self.connection.holding.lines]
        bodiless = status in {204, 304}
        for name, value in headers:
            if _BAD_NAME.search(name) or _BAD_VALUE.search(value):
                raise RuntimeError(f"{name!r}: {value!r} is no header")
            lower = name.lower()
            if lower == b"content-length":
                self._left = int(value)
            elif lower == b"connection" and value.lower() == b"close":
                self._keep_alive = False
                continue
            elif lower == b"transfer-encoding":
                continue  # how the body is framed is decided here
            lines.append(b"%b: %b\r\n" % (name, value))
        self._no_body = self._no_body or bodiless
        if self._left is None and not bodiless:
            if self._old:
                self._keep_alive = False  # its end is the connection's
            else:
                self._chunked = True
                lines.append(b"transfer-encoding: chunked\r\n")
        if not self._keep_alive:
            lines.append(b"connection: close\r\n")
        lines.append(b"\r\n")
        self._started, self._continue = True, False
        self._head = lines
        self.connection.loop.call_soon(self._flush)
        self._awake()

    def _flush(self) -> None:
        """Send the head alone if no part of the body came in the same turn of the loop."""
        if self._head and not self._gone:
            self.transport.write(b"".join(self._head))
        self._head = []

    def _write(self, body: bytes, *, more: bool) -> None:
        parts, self._head = self._head, []
        if self._no_body:
            pass
        elif self._chunked:
            if body:
                parts += [b"%x\r\n" % len(body), body, b"\r\n"]
            if not more:
                parts.append(b"0\r\n\r\n")
        else:
            if self._left is not None:
                self._left -= len(body)
                if self._left < 0 or (self._left and not more):
                    self._head = parts
                    raise RuntimeError("the body is not as long as Content-Length says")
            parts.append(body)
        if parts:
            self.transport.write(b"".join(parts))
        if not more:
            self._complete = True
            self._awake()
            self.connection.answered(keep_alive=self._keep_alive)

    def _awake(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)


def _scope(request: Request, connection: Connection, state: dict[str, Any]) -> Message:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": request.version,
        "server": _address(connection.transport.get_extra_info("sockname")),
        "client": connection.peer.named(request),
        "scheme": connection.peer.scheme(request),
        "method": request.method,
        "root_path": "",
        "path": request.path,
        "raw_path": request.raw_path,
        "query_string": request.query,
        "headers": request.headers,
        "state": state.copy(),
    }


def _address(found: Any) -> tuple[str, int | None] | None:
    if isinstance(found, tuple) and len(found) >= 2:
        return str(found[0]), int(found[1])
    return (found, None) if isinstance(found, str) else None
