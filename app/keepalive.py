"""WebSockets that are pinged, and cut when nobody is there any more, but not because somebody is slow.

A reader that takes its time has our ping behind all that it is yet to read, so a late pong says
nothing. What tells a dead peer from a slow one is whether its kernel still acknowledges anything: our
ping, or the probe of a window that is shut. Who is alive and makes no progress is left to the close
code 4408.
"""

from __future__ import annotations

import socket
import struct
import sys
from typing import Any

from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

PING_EVERY = 20.0  # seconds
PONG_WITHIN = 30.0  # seconds: a peer that is gone is found within 50
_LAST_ACK = struct.Struct("=56xI")  # tcpi_last_ack_recv of struct tcp_info: milliseconds


class PatientWebSocket(WebSocketsSansIOProtocol):
    """uvicorn's WebSocket protocol with another judgement of a pong that does not come."""

    def keepalive_timeout(self) -> None:
        """Ping again if the peer is there, else let go of it."""
        waited = self.loop.time() - self.ping_sent_at
        if silent_for(self.transport.get_extra_info("socket")) < waited:
            self.pong_timer = None
            self.pending_ping_payload = None
            self.schedule_ping()
            return
        super().keepalive_timeout()
        self.transport.abort()  # or the socket waits a quarter of an hour for somebody to take what is left


def silent_for(sock: Any) -> float:
    """Return the seconds since the peer's kernel acknowledged anything; for ever where that is not known."""
    if sys.platform != "linux" or sock is None:
        return float("inf")
    try:
        told = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_ACK.size)
        milliseconds: int = _LAST_ACK.unpack(told)[0]
    except (OSError, struct.error):
        return float("inf")
    return milliseconds / 1000
