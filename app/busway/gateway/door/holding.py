"""What one connection takes of what all share: memory, and what its address may have."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from busway.gateway.budget import Budget
from busway.gateway.door.deadlines import TIMES, Stall, Times
from busway.gateway.door.peer import Peer
from busway.gateway.door.port import Answer, Headers, problem
from busway.gateway.errors import TooManyRequests
from busway.gateway.limits import NO_LIMITS, Limits, Share, hits

_BOUNDLESS = Budget(1 << 62, "")


class Holding:
    """The bytes of a request that has not arrived completely, and of an answer that the client has not read.

    Args:
        app: the application. Its `bodies` and `answers` are the memory for them, `limits` those of each
            client, and `times` says how long clients may take, if it has these.

    Attributes:
        held: bytes of the request.
        times: how long the client may take.
        limited: whether addresses have limits, and that of the peer, too.
        share: what the address of the request uses, None if that has no limits.
        key_share: what the API key of the request uses, likewise.
        lines: header fields of each response.
    """

    __slots__ = (
        "_answers", "_bodies", "_limits", "_proxied", "_stalled", "_unsent", "held", "key_share", "limited",
        "lines", "share", "times",
    )  # fmt: skip

    def __init__(self, app: Any) -> None:
        self._bodies: Budget = getattr(app, "bodies", _BOUNDLESS)
        self._answers: Budget = getattr(app, "answers", _BOUNDLESS)
        self._limits: Limits = getattr(app, "limits", NO_LIMITS)
        self.times: Times = getattr(app, "times", TIMES)
        self.held = self._unsent = 0
        self._stalled: Stall | None = None
        self.share: Share | None = None
        self.key_share: Share | None = None
        self.lines = b""
        self.limited = False
        self._proxied: Peer | None = None

    def enter(self, peer: Peer) -> None:
        """Count the connection. That of a proxy counts for the client of its newest request.

        Raises:
            TooManyRequests: its address has too many.
        """
        if peer.is_proxy:
            self._proxied, self.limited = peer, self._limits.addresses.limited
        else:
            self._count(peer.address)
            self.limited = self.share is not None

    def _count(self, address: str) -> None:
        share = self._limits.of_address(address)
        if share is self.share:
            return
        if self.share is not None:
            self.share.connections -= 1
            self.share = None
        if share is not None:
            share.connect()
            self.share = share

    def refusal(self, headers: Headers) -> Answer | None:
        """Count a request with these headers. Return the answer if its address has too many."""
        if self._proxied is not None and self.limited:
            try:
                self._count(self._proxied.client(headers).address)
            except TooManyRequests as error:
                return problem(error)
        share = self.share
        if share is None or not share.rated:
            self.lines = b""
            return None
        counted = share.spend()
        self.lines = share.lines()
        return None if counted else problem(share.too_fast())

    def hold(self, size: int) -> None:
        """Take bytes for the request.

        Raises:
            Unavailable, TooManyRequests: there are not enough.
        """
        shares = [share for share in (self.share, self.key_share) if share is not None]
        for share in shares:
            share.check_bytes(size)
        self._bodies.take(size)
        for share in shares:
            share.bytes += size
        self.held += size

    def release(self) -> None:
        """Give the bytes of the request back."""
        self._bodies.give(self.held)
        for share in (self.share, self.key_share):
            if share is not None:
                share.bytes -= self.held
        self.held = 0
        self.key_share = None

    def pause(self, transport: asyncio.Transport, cut: Callable[[], None]) -> None:
        """Take the bytes of an answer that waits for its client, and `cut` if it reads nothing of it."""

        def stalled() -> None:
            hits["stalled"] += 1
            cut()

        self._unsent = transport.get_write_buffer_size()
        self._answers.count(self._unsent)
        if self.share is not None:
            self.share.bytes += self._unsent
        self._stalled = Stall(transport, asyncio.get_running_loop(), self.times.stall, stalled)

    def resume(self) -> None:
        """Give the bytes of the answer back."""
        self._answers.give(self._unsent)
        if self.share is not None:
            self.share.bytes -= self._unsent
        self._unsent = 0
        if self._stalled is not None:
            self._stalled.end()
            self._stalled = None

    def end(self) -> None:
        """Give everything back."""
        self.release()
        self.resume()
        if self.share is not None:
            self.share.connections -= 1
            self.share = None
