"""An open WebSocket: `websockets.ServerProtocol` (sans-I/O) on the transport of its handshake.

Sockets are pinged. A reader that takes its time has our ping behind all that it is yet to read, so a late
pong proves nothing. A dead peer differs from a slow one in whether its kernel still acknowledges
anything. A peer that is alive and makes no progress is left to the close code 4408.

A message may have very many fragments of no bytes, and pings ask for answers that nobody reads: neither
may fill the memory. So fragments have a limit (close code 1009), and pongs for which there is no room are
left out, as RFC 6455 (section 5.5.3) allows.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections import deque
from collections.abc import Sequence

from uvicorn import Config
from websockets import http11
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN
from websockets.server import ServerProtocol
from websockets.typing import Subprotocol

from busway.gateway.door.flow import Flow
from busway.gateway.door.holding import Holding
from busway.gateway.door.liveness import is_there
from busway.gateway.door.port import Serve, SocketEndpoint
from busway.gateway.errors import BadRequest, TooManyRequests, Unavailable, UpgradeRequired

log = logging.getLogger("busway.door")

PING_EVERY = 20.0  # seconds
PONG_WITHIN = 25.0  # seconds: a dead peer is detected within 50 s, whether or not it ever answered a ping
SLICE = 32_768  # bytes that are parsed in one turn of the loop
SMALL_SLICE = 4_096  # likewise, before frames came and while they are small: each takes time, however small
SMALL = 256  # bytes of a small frame, on average
MOST_USELESS = 64  # frames of one turn that end no message: for more, the connection rests
UNCOUNTED = 16_384  # bytes of a message under way that do not count as memory
MOST_FRAGMENTS = 16_384  # of one message
CLOSE_WITHIN = 10.0  # seconds that the peer has to answer a close frame
REASON_BYTES = 123  # of a close frame

_QUIET = logging.getLogger("busway.door.websockets")
_QUIET.disabled = True  # a client that breaks the protocol gets a close code, not a log line


def handshake(head: bytes, endpoint: SocketEndpoint) -> tuple[ServerProtocol, bytes]:
    """Accept a handshake; return the protocol, open, and the response to send.

    Raises:
        BadRequest, UpgradeRequired: it is none that RFC 6455 allows.
    """

    def select(_: ServerProtocol, offered: Sequence[Subprotocol]) -> Subprotocol | None:
        return next((Subprotocol(each) for each in endpoint.subprotocols if each in offered), None)

    protocol = ServerProtocol(select_subprotocol=select, max_size=endpoint.max_message, logger=_QUIET)
    protocol.receive_data(head)
    requests = protocol.events_received()
    if not requests or not isinstance(requests[0], http11.Request):
        raise BadRequest("the WebSocket handshake cannot be read")
    response = protocol.accept(requests[0])
    if response.status_code == 426:
        raise UpgradeRequired("this server speaks version 13 of the WebSocket protocol")
    if response.status_code != 101:
        raise BadRequest(bytes(response.body or b"").decode().strip() or "the WebSocket handshake is refused")
    protocol.send_response(response)
    del protocol.select_subprotocol  # a method that is bound to it: a reference cycle
    return protocol, b"".join(protocol.data_to_send())


class WebSocket:
    """One socket, open until either side closes it; a `Socket` to what serves it.

    Args:
        transport: of the connection.
        flow: likewise.
        protocol: open.
        config: of the server, which says how often to ping and how long to wait.
        holding: what the connection takes of the memory for requests that have not arrived completely.
    """

    _shared: tuple[str, bytes] = ("", b"")  # the text that was sent last on any socket, and its frame

    def __init__(
        self,
        transport: asyncio.Transport,
        flow: Flow,
        protocol: ServerProtocol,
        config: Config,
        holding: Holding,
    ) -> None:
        self.transport = transport
        self.subprotocol: str | None = protocol.subprotocol
        self.share = holding.share
        self._holding = holding
        self._rest = bytearray()  # received, not parsed yet
        self._slice = SMALL_SLICE
        self._flow = flow
        self._loop = asyncio.get_running_loop()
        self._protocol = protocol
        self._ping_every = config.ws_ping_interval or 0.0
        self._pong_within = config.ws_ping_timeout or 0.0
        self._messages: deque[str | bytes] = deque()
        self._arrived: asyncio.Future[None] | None = None
        self._ended = False  # no further message will come
        self._fragments: list[bytes] = []
        self._size = 0  # bytes of them
        self._text = False
        self._ping = b""
        self._pinged_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        if self._ping_every:
            self._timer = self._loop.call_later(self._ping_every, self._send_ping)

    async def run(self, serve: Serve) -> None:
        """Serve the socket, then close it if that is not done."""
        try:
            await serve(self)
        except Exception:
            log.exception("a WebSocket cannot be served")
            await self.close(1011, "a fault of the gateway: resume at your cursor")
        finally:
            if self._protocol.state is OPEN:
                self._close(1011, "")

    # -- what serves it calls

    async def receive(self) -> str | bytes | None:
        """Return the next message; None when there are no more."""
        while not self._messages:
            if self._ended:
                return None
            if not self._rest:
                self._flow.read(on=True)
            self._arrived = self._loop.create_future()
            await self._arrived
        return self._messages.popleft()

    def offer(self, text: str) -> bool:
        """Send a text frame at once if there is room.

        What a server sends is not masked (RFC 6455, section 5.1), so a text that many sockets get becomes
        a frame once.
        """
        if not self._flow.writable or self._protocol.state is not OPEN:
            return False
        known, frame = WebSocket._shared
        if text is not known:
            frame = Frame(Opcode.TEXT, text.encode()).serialize(mask=False)
            WebSocket._shared = text, frame
        self.transport.write(frame)
        return True

    async def send(self, text: str) -> None:
        """Send a text frame when there is room.

        Raises:
            ConnectionError: the socket is closed, or about to be.
        """
        while not self.offer(text):
            if self._protocol.state is not OPEN or self.transport.is_closing():
                raise ConnectionError("the socket is closed")
            await self._flow.drained()

    async def close(self, code: int, reason: str) -> None:
        """Send a close frame when there is room."""
        await self._flow.drained()
        self._close(code, reason)

    # -- what the connection says

    def data_received(self, data: bytes) -> None:
        """Parse bytes of the client, many of them in several turns: they may be very many frames."""
        if not self._rest and len(data) <= self._slice:
            self._feed(data)
            return
        if not self._rest:
            self._loop.call_soon(self._feed_rest)
        self._rest += data
        self._flow.read(on=False)

    def _feed_rest(self) -> None:
        if not self._rest:
            return
        part = bytes(self._rest[: self._slice])
        del self._rest[: self._slice]
        useless = self._feed(part)
        if self._rest:
            (self._loop.call_soon if useless < MOST_USELESS else self._flow.rest)(self._feed_rest)
        elif not self._messages:
            self._flow.read(on=True)

    def _feed(self, data: bytes) -> int:
        """Parse bytes, and return how many frames in them ended no message."""
        protocol = self._protocol
        protocol.receive_data(data)
        events, before = protocol.events_received(), len(self._messages)
        if events or len(data) >= SMALL:  # a part of a frame says nothing about its size
            self._slice = SMALL_SLICE if len(data) < SMALL * len(events) else SLICE
        for event in events:
            if isinstance(event, Frame):
                self._take(event)
        if protocol.parser_exc is not None or protocol.close_expected():
            self._end()
        size = self._size + len(protocol.reader.buffer)
        if size > UNCOUNTED or self._holding.held:
            try:
                self._holding.hold(size - self._holding.held)
            except Unavailable:
                self._fail(1013, "the messages of all clients take too much memory: try again later")
            except TooManyRequests as problem:
                self._fail(1013, problem.detail)
        self._flush()
        return len(events) - (len(self._messages) - before)

    def eof_received(self) -> None:
        """The client sends no more."""
        if self._rest:
            rest = bytes(self._rest)
            self._rest.clear()
            self._feed(rest)
        self._protocol.receive_eof()
        self._end()

    def connection_lost(self) -> None:
        """The connection is gone."""
        self._rest.clear()
        self._end()
        if self._protocol.state is OPEN:
            self._protocol.receive_eof()
        self._protocol.parser_exc = None  # its traceback and the parser refer to it: reference cycles
        self._protocol.parser.close()
        if self._timer is not None:
            self._timer.cancel()

    def shutdown(self) -> None:
        """Close: the server stops."""
        if self._protocol.state is OPEN:
            self._close(1012, "")
        self.transport.close()

    # -- frames

    def _take(self, frame: Frame) -> None:
        if frame.opcode is Opcode.PING or frame.opcode is Opcode.CLOSE:
            return  # the protocol answers
        if frame.opcode is Opcode.PONG:
            if self._ping and bytes(frame.data) == self._ping:
                self._ping = b""
                self._set_timer(self._ping_every, self._send_ping)
            return
        if frame.opcode is not Opcode.CONT:
            self._text = frame.opcode is Opcode.TEXT
            self._fragments, self._size = [], 0
        self._fragments.append(bytes(frame.data))
        self._size += len(self._fragments[-1])
        if frame.fin:
            data = self._fragments[0] if len(self._fragments) == 1 else b"".join(self._fragments)
            self._fragments, self._size = [], 0
            self._message(data)
        elif len(self._fragments) > MOST_FRAGMENTS:
            self._fragments, self._size = [], 0
            self._fail(1009, f"a frame has at most {MOST_FRAGMENTS} fragments")

    def _message(self, data: bytes) -> None:
        # The protocol may have read a close frame behind this message: what stands before it counts.
        if self._ended:
            return
        try:
            self._messages.append(data.decode() if self._text else data)
        except UnicodeDecodeError:
            self._fail(1007, "text is UTF-8")
            return
        self._arrive()
        self._flow.read(on=False)  # until it is taken

    def _fail(self, code: int, reason: str) -> None:
        self._protocol.fail(code, reason)
        self._end()
        self._flush()

    def _close(self, code: int, reason: str) -> None:
        if self._protocol.state is not OPEN:
            return
        self._protocol.send_close(code, reason.encode()[:REASON_BYTES].decode(errors="ignore"))
        self._messages.clear()
        self._end()
        self._flush()
        self._set_timer(CLOSE_WITHIN, self.transport.abort)
        self._flow.read(on=True)  # for the answer

    def _flush(self) -> None:
        """Send what the protocol has to send: pongs only if there is room, and the end if it says so."""
        output = self._protocol.data_to_send()
        if self._flow.writable or self._protocol.state is not OPEN:
            data = b"".join(output)
            if data and not self.transport.is_closing():
                self.transport.write(data)
        if output and output[-1] == b"":  # websockets.protocol.SEND_EOF: nothing follows
            self.transport.close()

    def _end(self) -> None:
        self._ended = True
        self._arrive()

    def _arrive(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)

    # -- pings

    def _set_timer(self, seconds: float, action: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(seconds, action)  # type: ignore[arg-type]

    def _send_ping(self) -> None:
        if self._protocol.state is not OPEN or self.transport.is_closing():
            return
        self._ping = os.urandom(4)
        self._pinged_at = self._loop.time()
        self._protocol.send_ping(self._ping)
        self.transport.write(b"".join(self._protocol.data_to_send()))
        self._set_timer(self._pong_within, self._no_pong)

    def _no_pong(self) -> None:
        """Ping again if the peer is there, else cut the connection."""
        if self._protocol.state is not OPEN or self.transport.is_closing():
            return
        if is_there(self.transport.get_extra_info("socket"), self._loop.time() - self._pinged_at):
            self._send_ping()  # at once: how long it is there without answering is not known
            return
        self._protocol.fail(1011, "keepalive ping timeout")
        self.transport.write(b"".join(self._protocol.data_to_send()))
        self.transport.abort()  # or the socket waits a quarter of an hour for somebody to take what is left
