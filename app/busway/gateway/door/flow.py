"""Reading from a socket and writing to it, each with pauses."""

from __future__ import annotations

import asyncio

PIPELINED = 65_536  # bytes behind an unanswered request before reading pauses
DISCARDED = 67_108_864  # bytes of a body read over behind an answer, before the connection ends
AT_ONCE = 32  # requests of one connection that are answered in one turn of the loop


class Flow:
    """Whether a connection's socket is read from, and whether it has room for more.

    `writable`: the transport has little to send; set by its `pause_writing` and `resume_writing`.
    """

    __slots__ = ("_loop", "_reading", "_room", "_transport", "writable")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._reading = True
        self._room: asyncio.Future[None] | None = None
        self.writable = True

    def read(self, *, on: bool) -> None:
        """Read from the socket, or pause."""
        if on == self._reading or self._transport.is_closing():
            return
        self._reading = on
        if on:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    @property
    def reading(self) -> bool:
        """Whether the socket is read from."""
        return self._reading

    def pause_writing(self) -> None:
        """Have writers wait."""
        self.writable = False

    def resume_writing(self) -> None:
        """Let writers go on."""
        self.writable = True
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    async def drained(self) -> None:
        """Wait until the socket has room, or is gone."""
        if self.writable:
            return
        if self._room is None or self._room.done():
            self._room = self._loop.create_future()
        await asyncio.shield(self._room)
