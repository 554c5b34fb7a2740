"""One deadline of a connection at a time, and one timer for all of them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable

NEVER = math.inf


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


STALL_TIMEOUT = 60.0  # seconds without progress after which a client that does not read is cut
_LOOKS = 12


class Stall:
    """Runs an action when a transport had bytes to send for `STALL_TIMEOUT` seconds and sent none of them."""

    def __init__(
        self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, action: Callable[[], None]
    ) -> None:
        self._transport, self._loop, self._action = transport, loop, action
        self._left = transport.get_write_buffer_size()
        self._looks = 0
        self._timer = loop.call_later(STALL_TIMEOUT / _LOOKS, self._look)

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
        self._timer = self._loop.call_later(STALL_TIMEOUT / _LOOKS, self._look)
