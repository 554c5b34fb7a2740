"""One write to the socket for all that one turn of the loop has for a connection.

uvicorn writes the head and the body of a response apart: two system calls, and two packets for the
client to wake up for. Measured on publishing, the second cost about a twelfth of the gateway's time.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from busway.gateway.door.exchange import DirectHttp


class Corked:
    """A transport whose writes leave at the end of the turn of the loop; all else is the transport's own."""

    __slots__ = ("_loop", "_transport", "_waiting", "is_closing")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._waiting: list[bytes] = []
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        """Keep the bytes for the end of this turn."""
        waiting = self._waiting
        if not waiting:
            self._loop.call_soon(self._flush)
        waiting.append(data)

    def write_now(self, data: bytes) -> None:
        """Write what is whole, behind what is kept: one frame to each of many sockets needs no cork."""
        if self._waiting:
            self._waiting.append(data)
        else:
            self._transport.write(data)

    def _flush(self) -> None:
        waiting = self._waiting
        if waiting:
            chunk = waiting[0] if len(waiting) == 1 else b"".join(waiting)
            waiting.clear()
            self._transport.write(chunk)

    def get_write_buffer_size(self) -> int:
        """Return how many bytes are not with the kernel yet."""
        return self._transport.get_write_buffer_size() + sum(map(len, self._waiting))

    def close(self) -> None:
        """Send what is kept, then close."""
        self._flush()
        self._transport.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class CorkedHttp(DirectHttp):
    """uvicorn's HTTP protocol, and the WebSocket protocol it hands on to, on a corked transport."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin a connection."""
        super().connection_made(cast("asyncio.Transport", Corked(transport, self.loop)))
