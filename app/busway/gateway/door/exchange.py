"""One request and its answer without ASGI, for the one route that carries the load.

uvicorn parses such a request as it does all others. What is left out is what ASGI makes of it: a scope, a
cycle with its event, a task, and messages in dictionaries (`docs/performance.md` says what they cost). An
application has a `direct` of the type `Direct`, or all its requests are ASGI.
"""

from __future__ import annotations

import asyncio
import re
import urllib.parse
from typing import Any, ClassVar
from weakref import WeakKeyDictionary

import httptools
import msgspec
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from busway.gateway.door.direct import Answer, Direct, Head, Headers, line

LONGEST_HEAD = 2048  # bytes of a head that is remembered
MOST_HEADS = 1000
_OFFER = re.compile(rb"\r\nUpgrade:[ \t]*h2c[ \t]*(?=\r\n|\Z)", re.IGNORECASE)


class _Nobody:
    """Stands for the event that a cycle of uvicorn waits for."""

    def set(self) -> None:
        """Wake nobody."""


class Exchange(msgspec.Struct, eq=False):
    """One request and its answer, where uvicorn expects a cycle of its own.

    `more_body`: the body is not whole yet. `too_large`: it is over the limit.
    """

    protocol: DirectHttp
    direct: Direct
    head: Head
    body: list[bytes] = []
    more_body: bool = True
    keep_alive: bool = True
    expects: bool = False
    size: int = 0
    too_large: bool = False
    started: bool = False
    response_complete: bool = False
    disconnected: bool = False
    deadline: asyncio.TimerHandle | None = None

    message_event: ClassVar = _Nobody()

    def start(self) -> None:
        """Begin, now that the answers to earlier requests of the connection are out."""
        if self.disconnected:
            return
        self.started = True
        refusal = self.direct.admit(self.head)
        if refusal is not None:
            self.respond(refusal)
        elif self.too_large:
            self.respond(self.direct.too_large(self.head))
        elif not self.more_body:
            self._take()
        elif self.expects:
            self.protocol.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def add(self, chunk: bytes) -> None:
        """Take in a part of the body."""
        if self.response_complete:
            return
        self.size += len(chunk)
        self.too_large = self.size > self.direct.max_body
        if not self.too_large:
            self.body.append(chunk)
        elif self.started:
            self.respond(self.direct.too_large(self.head))

    def complete(self) -> None:
        """Go on with the whole body."""
        self.more_body = False
        self._forget_deadline()
        if self.started and not self.response_complete:
            self._take()

    def watch(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give the rest of the body its time, counted from now."""
        self._forget_deadline()
        if self.started and self.more_body and not self.response_complete:
            self.deadline = loop.call_later(self.direct.idle, self._give_up)

    def respond(self, answer: Answer) -> None:
        """Send the answer, unless there is one already or nobody is there any more."""
        if self.disconnected or self.response_complete:
            return
        self.response_complete = True
        self.body.clear()
        self.protocol.answer(answer, keep_alive=self.keep_alive)

    def _take(self) -> None:
        body = self.body
        self.direct.take(self.head, body[0] if len(body) == 1 else b"".join(body), self.respond)

    def _forget_deadline(self) -> None:
        if self.deadline is not None:
            self.deadline.cancel()
            self.deadline = None

    def _give_up(self) -> None:
        self.respond(self.direct.too_slow(self.head))


class _Known(msgspec.Struct, frozen=True, eq=False):
    """A head that was seen before, who answers it, and the bytes of the body that follows it."""

    direct: Direct
    head: Head
    size: int


_KNOWN: WeakKeyDictionary[Direct, dict[bytes, _Known]] = WeakKeyDictionary()


class DirectHttp(HttpToolsProtocol):
    """uvicorn's HTTP protocol, with a way past ASGI for requests to the application's `direct`.

    A client repeats its head byte for byte, and what the parser made of it the first time holds each time:
    the body of such a request is taken from behind it.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._direct: Direct | None = getattr(self.app, "direct", None)
        self._exchange: Exchange | None = None
        self._path = b"" if self._direct is None else self._direct.path.encode()
        self._known = {} if self._direct is None else _KNOWN.setdefault(self._direct, {})
        self._between = self._direct is not None  # the parser is where a request begins
        self._start = b""  # what came first of the request that the parser has
        self._fed = self._left = 0  # bytes since then; bytes to come of a body behind a known head
        self._shared_headers: Headers = []
        self._shared = b""
        self._idle_since: float | None = None

    def data_received(self, data: bytes) -> None:
        """Take bytes of the client."""
        if self._left:
            data = self._collect(data)
            if not data:
                return
        if self._between:
            if self._is_known(data):
                return
            self._exchange, self._start, self._fed = None, data, 0
        self._fed += len(data)
        super().data_received(self._without_offer(data) if b"h2c" in data else data)
        exchange = self._exchange
        if exchange is None:
            return
        if exchange.more_body:
            exchange.watch(self.loop)
        elif self._between:
            self._remember(exchange)

    def _without_offer(self, data: bytes) -> bytes:
        """Take an offer of HTTP/2 out of a request's head.

        A server may ignore such an offer (RFC 9110, section 7.8), but uvicorn's parser stops at it and
        loses the body; Java's client and `curl --http2` make it.
        """
        if self.cycle is not None and (self.cycle.more_body or not self.cycle.response_complete):
            return data
        head, end, body = data.partition(b"\r\n\r\n")
        return _OFFER.sub(b"", head) + end + body

    def _is_known(self, data: bytes) -> bool:
        """Begin a request with a known head; False, and nothing is taken, if it is none or there is more."""
        end = data.find(b"\r\n\r\n") + 4
        known = self._known.get(data[:end])
        if known is None:
            return False
        body = data[end:]
        left = known.size - len(body)
        if left < 0:
            return False
        self._idle_since = None
        if not left:
            self._begin(Exchange(self, known.direct, known.head, [body], more_body=False))
            return True
        self._exchange = exchange = Exchange(self, known.direct, known.head)
        self._between, self._left = False, left
        self._begin(exchange)
        exchange.add(body)
        exchange.watch(self.loop)
        return True

    def _collect(self, data: bytes) -> bytes:
        """Take the body behind a known head; return what is behind it."""
        part = data[: self._left]
        self._left -= len(part)
        exchange = self._exchange
        if exchange is not None:
            exchange.add(part)
            if self._left:
                exchange.watch(self.loop)
            else:
                self._between = True
                exchange.complete()
        return data[len(part) :]

    def _remember(self, exchange: Exchange) -> None:
        """Remember the head of the request that just became whole, if it came as one and with its length."""
        end, start = self._fed - exchange.size, self._start
        if exchange.expects or exchange.too_large or end > LONGEST_HEAD or start.find(b"\r\n\r\n") + 4 != end:
            return
        if len(self._known) >= MOST_HEADS:
            self._known.clear()
        self._known[start[:end]] = _Known(exchange.direct, exchange.head, exchange.size)

    def on_message_begin(self) -> None:
        """Begin a request; its scope is made when it is known to need one."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = self._between = False

    def on_headers_complete(self) -> None:
        """Send the request its way."""
        direct = self._direct
        if direct is None or not self._is_direct(direct):
            self._exchange = None
            url, headers, expects = self.url, self.headers, self.expect_100_continue
            super().on_message_begin()
            self.url, self.headers, self.expect_100_continue = url, headers, expects
            self.scope["headers"] = headers
            super().on_headers_complete()
            return
        keep_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        self._exchange = exchange = Exchange(
            self, direct, Head(self.headers), keep_alive=keep_alive, expects=self.expect_100_continue
        )
        self._begin(exchange)

    def _begin(self, exchange: Exchange) -> None:
        before: Any = self.cycle
        self.cycle = exchange  # type: ignore[assignment]
        if before is None or before.response_complete:
            exchange.start()
        else:
            self.flow.pause_reading()
            self.pipeline.appendleft((exchange, self.app))  # type: ignore[arg-type]

    def _is_direct(self, direct: Direct) -> bool:
        if self.parser.get_method() != b"POST" or (self.parser.should_upgrade() and self._should_upgrade()):
            return False
        if self.url == self._path:
            return True
        path = httptools.parse_url(self.url).path.decode("ascii")
        return urllib.parse.unquote(path) == direct.path

    def on_body(self, body: bytes) -> None:
        """Take in a part of a body."""
        if self._exchange is not None:
            self._exchange.add(body)
        else:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """Know that a request is whole."""
        exchange = self._exchange
        if exchange is not None:
            self._between = exchange.keep_alive
            exchange.complete()
        else:
            super().on_message_complete()

    def answer(self, answer: Answer, *, keep_alive: bool) -> None:
        """Write a whole response, if anybody is there; then the connection is the next request's."""
        transport = self.transport
        if transport.is_closing():
            return
        shared = self.server_state.default_headers
        if shared is not self._shared_headers:
            self._shared_headers, self._shared = shared, b"".join(map(line, shared))
        end = b"\r\n" if keep_alive else b"connection: close\r\n\r\n"
        transport.write(b"".join((STATUS_LINE[answer.status], self._shared, answer.lines, end, answer.body)))
        self.server_state.total_requests += 1
        if keep_alive:
            self._go_on()
        else:
            transport.close()

    def on_response_complete(self) -> None:
        """Know that a response of ASGI is out."""
        self.server_state.total_requests += 1
        if not self.transport.is_closing():
            self._go_on()

    def _go_on(self) -> None:
        """Go on with the next request of the connection, or wait for one.

        uvicorn sets a timer after each answer and takes it back with the next request; here one timer a
        connection goes on until it finds that the connection was idle all its time.
        """
        flow = self.flow
        if flow.read_paused and not flow.write_paused:
            flow.resume_reading()
        if self.pipeline:
            self._start_asgi_task(*self.pipeline.pop())
            return
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._look_at_idleness(self._idle_since)

    def _look_at_idleness(self, since: float) -> None:
        left = since + self.timeout_keep_alive
        self.timeout_keep_alive_task = self.loop.call_at(left, self._was_it_idle, since)

    def _was_it_idle(self, since: float) -> None:
        self.timeout_keep_alive_task = None
        if self._idle_since == since:
            self.timeout_keep_alive_handler()
        elif self._idle_since is not None:
            self._look_at_idleness(self._idle_since)

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = None

    def connection_lost(self, exc: Exception | None) -> None:
        """End with the connection."""
        super().connection_lost(exc)
        self._idle_since = None
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        if isinstance(cycle, Exchange):
            self.loop.call_soon(self._resume, cycle)  # not now: each stands inside the one before
        else:
            super()._start_asgi_task(cycle, app)

    def _resume(self, exchange: Exchange) -> None:
        """Begin a request that stood in line, of whose body there may be nothing more to come."""
        exchange.start()
        exchange.watch(self.loop)

    def pause_writing(self) -> None:
        """Read nothing of who does not read: an answer is whole and waits for nobody."""
        super().pause_writing()
        self.flow.pause_reading()

    def resume_writing(self) -> None:
        """Read on, if no request stands in line: of a stream's client there is its end to be noticed."""
        super().resume_writing()
        if not self.pipeline:
            self.flow.resume_reading()
