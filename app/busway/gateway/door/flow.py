"""Reading from a socket and writing to it, each with pauses."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

PIPELINED = 65_536  # bytes behind an unanswered request before reading pauses
DISCARDED = 67_108_864  # bytes of a body read over behind an answer, before the connection ends
BULK = 65_536  # bytes of one read, after which other connections are served
AT_ONCE = 32  # requests of one connection that are answered in one turn of the loop
REST = 0.02  # seconds without reading, after many refused requests, empty frames or tiny chunks of one client


class Flow:
    """Whether a connection's socket is read from, and whether it has room for more.

    Attributes:
        writable: the transport has little to send; set by its `pause_writing` and `resume_writing`.
        discarded: bytes that were read over since the answer to the request under way.
    """

    __slots__ = ("_loop", "_reading", "_rests", "_room", "_transport", "_wanted", "discarded", "writable")

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._reading = self._wanted = True
        self._rests = 0  # that are under way
        self.discarded = 0
        self._room: asyncio.Future[None] | None = None
        self.writable = True

    def read(self, *, on: bool) -> None:
        """Read from the socket, or pause."""
        self._wanted = on
        reading = on and not self._rests
        if reading == self._reading or self._transport.is_closing():
            return
        self._reading = reading
        if reading:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    @property
    def reading(self) -> bool:
        """Whether the socket is read from, as soon as it has rested."""
        return self._wanted

    def rest(self, then: Callable[[], None] | None = None) -> None:
        """Read nothing for a moment: the client keeps the loop busy for nothing. `then`: called after it."""
        if then is not None:
            self._loop.call_later(REST, then)
        self._rests += 1
        self._loop.call_later(REST, self._rested)
        self.read(on=self._wanted)

    def await_turn(self) -> None:
        """Read on in the next turn of the loop: uvloop reads a socket up to 32 times in one."""
        self._rests += 1
        self._loop.call_soon(self._rested)
        self.read(on=self._wanted)

    def discards_too_much(self, size: int) -> bool:
        """Count bytes that are read over, slowly if they are many. Return whether it is enough of them."""
        self.discarded += size
        if self.discarded > PIPELINED:
            self.rest()
        return self.discarded > DISCARDED

    def _rested(self) -> None:
        self._rests -= 1
        self.read(on=self._wanted)

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
