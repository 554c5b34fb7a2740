"""What one connection takes of the memory that all share, and whether its client reads."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from busway.gateway.budget import Budget
from busway.gateway.door.deadlines import Stall

_BOUNDLESS = Budget(1 << 62, "")


class Holding:
    """The bytes of a request that has not arrived completely, and of an answer that the client has not read.

    Args:
        app: the application. Its `bodies` and `answers` are the memory for them, if it has these.

    Attributes:
        held: bytes of the request.
    """

    __slots__ = ("_answers", "_bodies", "_stalled", "_unsent", "held")

    def __init__(self, app: Any) -> None:
        self._bodies: Budget = getattr(app, "bodies", _BOUNDLESS)
        self._answers: Budget = getattr(app, "answers", _BOUNDLESS)
        self.held = self._unsent = 0
        self._stalled: Stall | None = None

    def hold(self, size: int) -> None:
        """Take bytes for the request.

        Raises:
            Unavailable: there are not enough.
        """
        self._bodies.take(size)
        self.held += size

    def release(self) -> None:
        """Give the bytes of the request back."""
        self._bodies.give(self.held)
        self.held = 0

    def pause(self, transport: asyncio.Transport, cut: Callable[[], None]) -> None:
        """Take the bytes of an answer that waits for its client, and `cut` if it reads nothing of it."""
        self._unsent = transport.get_write_buffer_size()
        self._answers.count(self._unsent)
        self._stalled = Stall(transport, asyncio.get_running_loop(), cut)

    def resume(self) -> None:
        """Give the bytes of the answer back."""
        self._answers.give(self._unsent)
        self._unsent = 0
        if self._stalled is not None:
            self._stalled.end()
            self._stalled = None

    def end(self) -> None:
        """Give all bytes back."""
        self.release()
        self.resume()
