"""One deadline of a connection at a time, and one timer for all of them. How long everything may take."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

import msgspec

NEVER = math.inf
DISCARD_WITHIN = 30.0  # seconds for the rest of a body whose request is answered, before the connection ends
LINGER = 2.0  # seconds that a refused client may go on sending before the connection is cut


class Times(msgspec.Struct, frozen=True):
    """How long a client may take, in seconds.

    Attributes:
        head: for the head of a request.
        body: how long a body may stand still, and after how long `least` is asked of it.
        least: bytes a second that a body must have on average.
        upload: how long NDJSON may stand still.
        stall: how long a client may read nothing of what waits for it.
    """

    head: float = 30.0
    body: float = 30.0
    least: int = 1024
    upload: float = 60.0
    stall: float = 60.0


TIMES = Times()


class Deadline:
    """Runs an action later, unless it is changed or cleared before.

    One timer is kept and checks the deadline when it fires. To set and cancel a timer for each request would
    cost more than all else that is done for the request here.
    """

    __slots__ = ("_action", "_loop", "_timer", "at")

    def __init__(self, loop: asyncio.AbstractEventLoop, action: Callable[[], None]) -> None:
        self._loop = loop
        self._action = action
        self._timer: asyncio.TimerHandle | None = None
        self.at = NEVER  # of the loop's clock

    def set(self, seconds: float, action: Callable[[], None]) -> None:
        """Run `action` in `seconds`; it replaces the action set before."""
        self.at = at = self._loop.time() + seconds
        self._action = action
        if self._timer is None:
            self._timer = self._loop.call_at(at, self._look)
        elif self._timer.when() > at:
            self._timer.cancel()
            self._timer = self._loop.call_at(at, self._look)

    def change(self, action: Callable[[], None]) -> None:
        """Replace the action and keep the time."""
        self._action = action

    def clear(self) -> None:
        """Run no action."""
        self.at = NEVER

    def close(self) -> None:
        """Run no action, cancel the timer, and release what the action belongs to."""
        self.at, self._action = NEVER, _nothing
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        if self.at == NEVER:
            return
        if self._loop.time() < self.at:
            self._timer = self._loop.call_at(self.at, self._look)
            return
        self.at = NEVER
        self._action()


def _nothing() -> None:
    pass


class Pace:
    """By when more of a body must come.

    Args:
        now: the time of the loop.
        idle: seconds that the body may stand still, and after which `least` is asked of it.
        least: bytes a second that it must have on average. 0: it may come slowly.
    """

    __slots__ = ("_began", "_came", "_idle", "_least", "_paused")

    def __init__(self, now: float, idle: float, least: int) -> None:
        self._began, self._idle, self._least = now, idle, least
        self._came = 0
        self._paused: float | None = None

    def came(self, size: int) -> None:
        """Count bytes of the body."""
        self._came += size

    def pause(self, now: float) -> None:
        """Stop the clock: nothing is read from the socket."""
        self._paused = now

    def left(self, now: float) -> float:
        """Return in how many seconds more must come. The clock goes on."""
        if self._paused is not None:
            self._began += now - self._paused
            self._paused = None
        if not self._least:
            return self._idle
        until = self._began + max(self._idle, self._came / self._least)
        return max(0.0, min(self._idle, until - now))


_LOOKS = 12


class Stall:
    """Runs an action when a transport had bytes to send for so many seconds and sent none of them."""

    def __init__(
        self,
        transport: asyncio.Transport,
        loop: asyncio.AbstractEventLoop,
        seconds: float,
        action: Callable[[], None],
    ) -> None:
        self._transport, self._loop, self._action = transport, loop, action
        self._left = transport.get_write_buffer_size()
        self._looks, self._every = 0, seconds / _LOOKS
        self._timer = loop.call_later(self._every, self._look)

    def end(self) -> None:
        """Run no action."""
        self._timer.cancel()

    def _look(self) -> None:
        left = self._transport.get_write_buffer_size()
        self._looks = self._looks + 1 if left >= self._left else 0
        self._left = left
        if self._looks >= _LOOKS:
            self._action()
            return
        self._timer = self._loop.call_later(self._every, self._look)
