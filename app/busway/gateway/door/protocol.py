"""One connection: its requests one after another, each for the endpoint, a WebSocket or the ASGI application.

uvicorn gives it its socket (`http=`, a supported option) and drives `shutdown`. What is behind a request
waits, as bytes, until that request is answered: so a connection has one request under way, and what
follows it is what the framing of this one says.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from busway.gateway.door.accepted import Accepted
from busway.gateway.door.bodies import LEAST, LINES, Body, framing
from busway.gateway.door.cycle import STATUS_LINES, UNREAD, Cycle
from busway.gateway.door.deadlines import DISCARD_WITHIN, LINGER, NEVER, Deadline, Pace
from busway.gateway.door.exchange import take_body
from busway.gateway.door.flow import AT_ONCE, BULK, PIPELINED, Flow
from busway.gateway.door.heads import Request, check_unfinished, known_to, read
from busway.gateway.door.peer import Peer
from busway.gateway.door.port import Answer, Endpoint, Head, Intake, SocketEndpoint, problem
from busway.gateway.door.room import make_room
from busway.gateway.door.websocket import WebSocket, handshake
from busway.gateway.errors import BadRequest, BuswayError, HeadTooLarge, RequestTimeout, TooManyRequests
from busway.gateway.limits import hits

_turns = itertools.count()


class HttpProtocol(Accepted):
    """A connection, as `asyncio` and uvicorn see it.

    The application may have `publish` (an `Endpoint`), `sockets` (a `SocketEndpoint`) and `proxies`.
    """

    __slots__ = (
        "_advancing", "_answered", "_body", "_busy", "_cycle", "_deadline", "_ending",
        "_endpoint", "_exchange", "_hurry", "_keep_alive", "_known", "_later", "_pace", "_requests", "_rest",
        "_scanned", "_socket", "_sockets", "_unread", "_waiting_since", "peer",
    )  # fmt: skip

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.peer: Peer
        self._endpoint: Endpoint | None = getattr(self._app, "publish", None)
        self._sockets: SocketEndpoint | None = getattr(self._app, "sockets", None)
        self._known = None if self._endpoint is None else known_to(self._endpoint)
        self._rest: bytes | bytearray = b""  # what came and is not understood yet
        self._scanned = 0  # bytes of it that do not end a head; 0 where none is begun
        self._requests, self._waiting_since = False, 0  # whether there was a request; since which turn
        self._deadline = Deadline(self.loop, self._close)
        self._busy = self._answered = self._advancing = self._later = False
        self._keep_alive = True
        self._body: Body | None = None  # None: it is whole
        self._pace = Pace(0, 0, 0)  # of the body
        self._exchange: Intake | None = None
        self._cycle: Cycle | None = None
        self._socket: WebSocket | None = None
        self._hurry: Any = None  # what wants to know when the client sends no more
        self._unread = False  # much of the body waits for the application
        self._ending = False  # nothing more is read or answered

    # -- called by asyncio and uvicorn

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start to wait for a request."""
        self.transport = transport  # type: ignore[assignment]
        self.peer = Peer(self.transport, self._app)
        self.flow = Flow(self.transport, self.loop)
        self._waiting_since = next(_turns)
        self._deadline.set(self.holding.times.head, self._close)
        self._state.connections.add(self)  # type: ignore[arg-type]
        make_room(self._state.connections)
        try:
            self.holding.enter(self.peer)
        except TooManyRequests as error:
            self._refuse(error)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's own
        """Release everything."""
        self._state.connections.discard(self)
        self._ending = True
        self._deadline.close()
        self.holding.end()
        self.flow.resume_writing()
        if self._socket is not None:
            self._socket.connection_lost()
        if self._incoming is not None:
            self._incoming.disconnect()
        if self._hurry is not None:
            self._hurry()
        self._rest, self._exchange, self._cycle, self._hurry = b"", None, None, None

    def data_received(self, data: bytes) -> None:
        """Take bytes of the client."""
        if self._socket is not None:
            self._socket.data_received(data)
            return
        if len(data) > BULK:
            (self.flow.rest if self._ending else self.flow.await_turn)()
        ready = not (self._rest or self._busy or self._known is None) and self.flow.writable
        if ready and self._is_known(data):
            return
        if not self._ending:
            if self._rest:
                self._rest += data
            else:
                self._rest = data
            self._advance()

    def eof_received(self) -> bool:
        """The client sends no more. Requests that arrived complete are still answered."""
        self.half_closed = True
        if self._socket is not None:
            self._socket.eof_received()
            return False
        partial = self._body is not None and not self._later
        if self._ending or partial or not (self._busy or (self._rest and not self._scanned)):
            return False
        if self._hurry is not None:
            self._hurry()
        return not self.peer.tls  # TLS closes both ways at once

    def pause_writing(self) -> None:
        """The client does not read, so do not read from it either."""
        self.flow.pause_writing()
        self._read_on()
        if self._socket is None and (self._cycle is None or self._cycle.sized):
            self.holding.pause(self.transport, self.cut)

    def resume_writing(self) -> None:
        """The client reads again."""
        self.holding.resume()
        self.flow.resume_writing()
        self._read_on()
        if self._rest and not self._busy:
            self._advance()

    def shutdown(self) -> None:
        """The server stops: close after the answer that is under way."""
        if self._socket is not None:
            self._socket.shutdown()
        elif self._busy and not self._answered:
            self._keep_alive = False
            if self._incoming is not None:
                self._incoming.end_with_response()
        else:
            self._close()

    @property
    def waiting_since(self) -> int | None:
        """When it started to wait for a request, as an ordinal number; None if it does not wait."""
        return None if self._busy or self._ending else self._waiting_since

    def cut(self) -> None:
        """Close at once, without flushing."""
        self._ending = True
        self._state.connections.discard(self)
        self.transport.abort()

    # -- requests

    def _advance(self) -> None:
        """Process the received bytes as far as possible, very many small requests in several turns."""
        if self._later:
            return
        self._advancing, left = True, AT_ONCE
        try:
            while self._rest and not self._ending:
                if self._busy:
                    if self._body is None or not self._read_body(self._body):
                        break
                elif not left:  # those were refused: others are answered in later turns
                    self._go_on_later(rest=True)
                    break
                elif not self.flow.writable or not self._begin(self._rest):
                    break
                else:
                    left -= 1
        except BuswayError as error:
            self._refuse(error)
        finally:
            self._advancing = False
        if self.half_closed and not self._later and (self._body is not None or not self._busy):
            self._close()
        elif self._unread or self._rest or not (self.flow.reading and self.flow.writable):
            self._read_on()

    def _go_on_later(self, *, rest: bool) -> None:
        self._later = True
        (self.flow.rest if rest else self.loop.call_soon)(self._go_on)

    def _go_on(self) -> None:
        self._later = False
        self._advance()

    def _is_known(self, data: bytes) -> bool:
        """Answer a request that arrived whole and alone behind a known head: the usual case."""
        end = data.find(b"\r\n\r\n")
        known: Any = self._known
        found = known.find(data[:end])
        endpoint: Any = self._endpoint
        if found is None or len(data) - end - 4 != found[1] or end < 0 or self._ending:
            return False
        if found[1] > endpoint.max_body:
            return False
        self._busy, self._answered, self._keep_alive = True, False, True
        self._deadline.at = NEVER
        head = found[0]
        answer = (self.holding.limited and self.holding.refusal(head.headers)) or endpoint.admit(head)
        if answer is not None:
            self._respond(answer)
        else:
            self._hurry = endpoint.take(head, data[end + 4 :], self._respond)
        return True

    def _begin(self, rest: bytes | bytearray) -> bool:
        """Start the next request; return False if its head is not complete."""
        if rest[0] in b"\r\n":  # between requests they are nothing (RFC 9112, section 2.2)
            rest = self._rest = rest.lstrip(b"\r\n")
            if not rest:
                return False
        end = rest.find(b"\r\n\r\n", self._scanned)
        if end < 0:
            self._begin_head(rest)
            return False
        self._scanned = 0
        self._deadline.at = NEVER
        self._busy, self._answered = True, False
        if self.holding.held:
            self.holding.release()
        if self._known is not None:
            found = self._known.find(bytes(rest[:end]))
            if found is not None:
                self._rest = rest[end + 4 :]
                self._keep_alive = True
                self._publish(found[0], found[1])
                return True
        self._route(bytes(rest[: end + 4]), rest[end + 4 :])
        return True

    def _begin_head(self, rest: bytes | bytearray) -> None:
        """Keep a part of a head and start its deadline."""
        if not self._scanned:
            self._rest = rest = bytearray(rest)  # grows in place, however small its parts are
            if self._requests:
                self._deadline.set(self.holding.times.head, self._head_too_slow)
            else:
                self._deadline.change(self._head_too_slow)  # its time began with the connection
        check_unfinished(rest, self._scanned)
        self.holding.hold(len(rest) - self.holding.held)
        self._scanned = max(1, len(rest) - 3)

    def _route(self, head: bytes, rest: bytes | bytearray) -> None:
        """Pass a request to the WebSocket endpoint, the publish endpoint or the application."""
        request = self.peer.read(read(head))
        self._rest = rest
        self._keep_alive = request.keep_alive
        sockets, known = self._sockets, self._known
        publishes = known is not None and request.method == "POST" and request.path == known.path
        answer = None if publishes else self.holding.refusal(request.headers)
        if answer is not None:
            self._turn_away(answer, request.length, expects=request.expects)
        elif sockets is not None and request.opens(sockets.path):
            self._open(sockets, head, request)
        elif known is not None and publishes:
            reduced = known.reduce(request.headers)
            self._publish(reduced, request.length, expects=request.expects)
            if reduced.admitted is not None:
                known.remember(head[:-4], request, reduced)
        else:
            self._start_cycle(request)

    def _publish(self, head: Head, length: int | None, *, expects: bool = False) -> None:
        """Pass a request to the publish endpoint."""
        endpoint: Any = self._endpoint
        answer = (self.holding.limited and self.holding.refusal(head.headers)) or endpoint.admit(head)
        rest = self._rest
        here = length and length <= len(rest) and length <= endpoint.max_body and not head.streams
        if answer is None and here:
            self._rest = rest[length:]
            self._hurry = endpoint.take(head, bytes(rest[:length]), self._respond)
            return
        if answer is not None:
            self._turn_away(answer, length, expects=expects)
            return
        self._body = framing(length)
        head.address, self.holding.key_share = self.holding.share, head.share
        self._exchange = intake = take_body(endpoint, head, self._respond, self.unread)
        if self._body is None:
            self._hurry = intake.whole()
        else:
            if expects and not rest:
                self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self._begin_body(intake)

    def _turn_away(self, answer: Answer, length: int | None, *, expects: bool) -> None:
        """Answer a request whose body is not wanted. Whether it comes, only the client knows."""
        self._body = framing(length)
        self._keep_alive = self._keep_alive and not expects
        self._respond(answer)

    def _start_cycle(self, request: Request) -> None:
        self._refresh_headers()
        self._body = framing(request.length)
        self.holding.key_share = None
        self._cycle = cycle = Cycle(self, request, self._app_state)
        self._hurry = cycle.half_close
        if self._body is None:
            cycle.whole()
        else:
            self._begin_body(cycle)
        self._run(cycle.run(self._app))

    def _open(self, sockets: SocketEndpoint, head: bytes, request: Request) -> None:
        """Accept or refuse a WebSocket handshake."""
        if request.length != 0:
            raise BadRequest("a WebSocket handshake has no body")
        serve = sockets.admit(request.headers, request.query)
        if isinstance(serve, Answer):
            self._respond(serve)
            return
        protocol, accepted = handshake(head, sockets)
        self.transport.write(accepted)
        self._socket = socket = WebSocket(self.transport, self.flow, protocol, self._config, self.holding)
        rest, self._rest = bytes(self._rest), b""
        self._run(socket.run(serve))
        if rest:
            socket.data_received(rest)

    # -- bodies

    def _begin_body(self, intake: Intake | Cycle) -> None:
        self._pace = Pace(self.loop.time(), intake.idle, intake.least)
        self._await_body()

    def _await_body(self) -> None:
        self._deadline.set(self._pace.left(self.loop.time()), self._body_too_slow)

    def _read_body(self, body: Body) -> bool:
        """Consume received bytes of the body; return True if the request is complete."""
        before = len(self._rest)
        self._rest = body.feed(bytes(self._rest), self._take)
        if self._ending:
            return False
        if not body.done:
            if body.paused:
                self._go_on_later(rest=before - len(self._rest) < LINES * LEAST)
            self._pace.came(before - len(self._rest))
            if not (self._answered or self._unread):
                self._await_body()
            return False
        self._body = None
        self._deadline.clear()
        if self._answered:
            self._next()
        else:
            self._hurry = self._incoming.whole() or self._hurry
        return True

    @property
    def _incoming(self) -> Any:
        """The exchange or cycle that takes the body of the request under way."""
        return self._exchange or self._cycle

    def _take(self, part: bytes) -> None:
        if not self._answered:
            if not self._incoming.counted:
                self.holding.hold(len(part))
            self._incoming.add(part)
            return
        if self.flow.discards_too_much(len(part)):
            self.cut()

    # -- answers

    def _respond(self, answer: Answer) -> None:
        """Send the endpoint's answer, unless the client is gone or the request is answered."""
        if not self._ending and self._busy and not self._answered:
            self.respond(answer, body=True, keep_alive=self._keep_alive)

    def respond(self, answer: Answer, *, body: bool, keep_alive: bool) -> None:
        """Send a complete response, with its body if `body` is true, and continue."""
        if self._state.default_headers is not self._shared:
            self._refresh_headers()
        end = b"\r\n" if keep_alive else b"connection: close\r\n\r\n"
        content = answer.body if body else b""
        holding = self.holding
        parts = (STATUS_LINES[answer.status], self.default_headers, holding.lines, answer.lines, end, content)
        self.transport.write(b"".join(parts))
        if answer.counts != 1 and holding.share is not None:
            holding.share.charge(answer.counts - 1)
        self.answered(keep_alive=keep_alive)

    def answered(self, *, keep_alive: bool) -> None:
        """Continue after a complete response."""
        self._state.total_requests += 1
        self._answered = True
        if self.holding.held:
            self.holding.release()
        if self._body is None and keep_alive and self._keep_alive:
            self._next()
        elif not (keep_alive and self._keep_alive):
            self._end()
        else:  # skip the rest of the body
            self._exchange = None
            self.flow.discarded = 0
            self._unread = False
            self._deadline.set(DISCARD_WITHIN, self.cut)
            if not self._advancing:
                self._read_on()

    def _next(self) -> None:
        """Process the next request, or wait for one."""
        self._busy = self._unread = False
        self._requests = True
        self._exchange = self._cycle = self._hurry = None
        if self.half_closed and not self._rest:
            self._close()
            return
        self._deadline.set(self._config.timeout_keep_alive, self._close)
        self._waiting_since = next(_turns)
        if self._rest and not self._advancing:
            self.loop.call_soon(self._advance)
        elif not (self._advancing or self.flow.reading):
            self._read_on()

    def _refuse(self, error: BuswayError) -> None:
        """Answer a request that cannot be processed, and close."""
        if self._answered and self._busy:
            self._end()
            return
        hits["head_size"] += isinstance(error, HeadTooLarge)
        if self._incoming is not None:
            self._incoming.disconnect()
        if self._cycle is not None and self._cycle.started:
            self.cut()
            return
        self._busy = True
        self.respond(problem(error), body=True, keep_alive=False)

    def _end(self) -> None:
        """Close. A client that still sends gets time to read the answer (RFC 9112, section 9.6)."""
        if self._ending:
            return
        self._ending = True
        sending = self._body is not None or self._rest
        self._rest, self._exchange = b"", None
        if not sending or self.half_closed or not self.transport.can_write_eof():
            self._close()
            return
        self.transport.write_eof()
        self._deadline.set(LINGER, self._close)
        self.flow.read(on=True)

    def _close(self) -> None:
        self._ending = True
        self._deadline.clear()
        self.transport.close()

    # -- reading and time

    def unread(self, size: int) -> None:
        """Pause reading while many bytes of the body wait for the application."""
        if self._unread == (size > UNREAD):
            return
        self._unread = not self._unread
        if self._unread:
            self._deadline.clear()
            self._pace.pause(self.loop.time())
        elif self._body is not None and not self._answered:
            self._await_body()
        if not self._advancing:
            self._read_on()

    def _read_on(self) -> None:
        """Read or pause. The client of a stream is always read from, so that its disconnect is noticed."""
        if self._ending or self._socket is not None:
            return
        behind = (self._later or (self._busy and self._body is None)) and len(self._rest) > PIPELINED
        reading = not (self._unread or behind) and (self.flow.writable or self._cycle is not None)
        self.flow.read(on=reading)

    def _head_too_slow(self) -> None:
        hits["head_timeout"] += 1
        within = f"{self.holding.times.head:g} s"
        self._refuse(RequestTimeout(f"the head did not come within {within}: send it at once"))

    def _body_too_slow(self) -> None:
        if self._answered or self._ending:
            return
        self._keep_alive = False
        hits["body_timeout" if self._incoming.least else "upload_timeout"] += 1
        answer = self._incoming.too_slow()
        self._incoming.disconnect()
        if self._cycle is not None and self._cycle.started:
            self.cut()
            return
        self.respond(answer, body=True, keep_alive=False)
