"""What uvicorn's WebSockets lack: patience with the slow, and bounds for the hostile.

Sockets are pinged, and cut when nobody is there any more, but not because somebody is slow.

A reader that takes its time has our ping behind all that it is yet to read, so a late pong says
nothing. What tells a dead peer from a slow one is whether its kernel still acknowledges anything: our
ping, or the probe of a window that is shut. Who is alive and makes no progress is left to the close
code 4408.

A message may have very many fragments of no bytes, and pings ask for answers that nobody reads: neither may
fill the memory, so the first has a limit (close code 1009), and pongs that do not fit are left out, as
RFC 6455 (section 5.5.3) lets us.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN

PING_EVERY = 20.0  # seconds
PONG_WITHIN = 25.0  # seconds: a peer that is gone is found within 50, answered it pings before or not
MOST_FRAGMENTS = 16_384  # of one message
_TCP_INFO = struct.Struct("=3xB20xI28xI")  # of struct tcp_info: tcpi_probes, _unacked, _last_ack_recv


class PatientWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol with another judgement of a pong that does not come."""

    _shared: tuple[str, bytes] = ("", b"")  # the text that was sent last on any socket, and its frame

    def connection_made(self, transport: Any) -> None:
        """Begin a connection, on a corked transport or another."""
        super().connection_made(transport)
        self._write_now = getattr(transport, "write_now", transport.write)

    async def send(self, message: Any) -> None:
        """Send a message of the application; a text that many sockets get becomes a frame once.

        What a server sends is not masked (RFC 6455, section 5.1), so the frame is the same for all.
        """
        text = message.get("text")
        if text is None or message["type"] != "websocket.send":
            await super().send(message)
            return
        if not self.writable.is_set():
            await self.writable.wait()
        if self.offer(text):
            return
        try:
            await super().send(message)
        except RuntimeError as problem:  # it was closed meanwhile, from this side
            raise ConnectionError("the socket is closed") from problem

    def offer(self, text: str) -> bool:
        """Send a text frame at once; False, and nothing is sent, if there is no room or it needs encoding."""
        if not (self.writable.is_set() and self.handshake_complete) or self.conn.extensions:
            return False
        if self.conn.state is not OPEN:
            return False
        known, frame = PatientWebSocket._shared
        if text is not known:
            frame = self._share(text)
        self._write_now(frame)
        return True

    def _share(self, text: str) -> bytes:
        frame = Frame(Opcode.TEXT, text.encode()).serialize(mask=False)
        PatientWebSocket._shared = text, frame
        return frame

    def handle_cont(self, event: Frame) -> None:
        """Take a fragment of a message, unless it has too many."""
        super().handle_cont(event)
        if len(self.frames) > MOST_FRAGMENTS and not self.close_sent:
            self.frames.clear()
            self.conn.fail(1009, f"a frame has at most {MOST_FRAGMENTS} fragments")
            self.handle_parser_exception()

    def handle_ping(self) -> None:
        """Answer a ping, if there is room for the answer."""
        pong = self.conn.data_to_send()
        if self.writable.is_set() or self.conn.close_sent is not None:
            self.transport.write(b"".join(pong))

    def keepalive_timeout(self) -> None:
        """Ping again if the peer is there, else let go of it."""
        waited = self.loop.time() - self.ping_sent_at
        if is_there(self.transport.get_extra_info("socket"), waited):
            self.send_keepalive_ping()  # at once: how long it is there without answering is not known
            return
        super().keepalive_timeout()
        self.transport.abort()  # or the socket waits a quarter of an hour for somebody to take what is left


def is_there(sock: Any, seconds: float) -> bool:
    """Tell whether the peer's kernel acknowledged what we sent, or anything in these seconds.

    False where that is not known: then a pong that does not come decides.
    """
    if sys.platform != "linux" or sock is None:
        return False
    try:
        told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        probes, unacknowledged, silent = _TCP_INFO.unpack(told)
    except (OSError, struct.error):
        return False
    return bool((probes == 0 and unacknowledged == 0) or silent / 1000 < seconds)
