"""Long polls of the result log: a page of `GET /v1/results` that waits for its first result."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

from busway.contract.results import ItemList
from busway.domain import cursor
from busway.domain.times import SECOND
from busway.gateway.access.scopes import Access
from busway.gateway.budget import Budget
from busway.gateway.errors import Unauthorized
from busway.gateway.subscribers.hub import Hub
from busway.gateway.subscribers.page import PAGE_BYTES, read_selects, results_page
from busway.gateway.subscribers.ring import Piece
from busway.gateway.subscribers.selection import select
from busway.gateway.subscribers.session import Subscription

READS = 4  # pages that are read at the same time
CATCH_UP = 0.05  # seconds until a look at a hub that has not shown what the store has


class Poll:
    """One poll. The hub wakes it; it reads the results itself. `access`: of its request."""

    def __init__(self, polls: LongPolls, access: Access) -> None:
        self.access = access
        self._refusal = ""
        self._polls, self._hub = polls, polls.hub
        self._subscription: Subscription | None = None
        self._woken = asyncio.Event()
        self._closed = False

    async def page(
        self, wanted: Mapping[str, Any], *, after: str | None, limit: int, seconds: float
    ) -> ItemList:
        """Return a page as `results_page` does, but wait for its first result, at most so many seconds.

        Raises:
            BuswayError: as from `results_page`.
            Unauthorized: its key was revoked or has expired meanwhile.
            Unavailable: too many answers or subscriptions are under way.
        """
        loop = asyncio.get_running_loop()
        if self.access.until is not None:
            seconds = min(seconds, (self.access.until - self._hub.durables.clock()) / SECOND)
        until = loop.time() + seconds
        while True:
            page = await self._polls.read(wanted, after, limit, self.access.types)
            if self._refusal:
                raise Unauthorized(self._refusal)
            left = until - loop.time()
            if page.items and self._hub.on_sent is not None:
                self._hub.on_sent(cast("list[bytes]", page.items), None)  # encoded already
            if page.items or left <= 0 or self._closed:
                return page
            after = page.cursor
            if page.next is None:
                await self._wait(wanted, cursor.decode(after)[1].number, left)

    def push(self, _subscription: Subscription, piece: Piece) -> bool:
        """Take a frame without results. Results are read."""
        return not piece.count

    def lag(self, _subscription: Subscription) -> None:
        """Wake up: there may be results."""
        self._woken.set()

    def close(self, code: int = 0, reason: str = "", *, flush: bool = False) -> None:  # noqa: ARG002
        """Answer soon."""
        self._closed = True
        if code == 4401:
            self._refusal = reason
        self._woken.set()

    def end(self) -> None:
        """Get no more results."""
        if self._subscription is not None:
            self._hub.leave(self._subscription)
            self._subscription.open = False

    async def _wait(self, wanted: Mapping[str, Any], position: int, seconds: float) -> None:
        """Wait until there may be results after this position."""
        subscription = self._subscription = self._subscription or self._subscribe(wanted)
        subscription.position = position
        if not self._hub.join(subscription, self):
            seconds = min(seconds, CATCH_UP)
        try:
            async with asyncio.timeout(seconds):
                await self._woken.wait()
        except TimeoutError:
            pass
        self._woken.clear()
        self._hub.leave(subscription)

    def _subscribe(self, wanted: Mapping[str, Any]) -> Subscription:
        selection = select(read_selects(wanted), within=self.access.types)
        self._hub.check_room(selection)
        subscription = Subscription("", selection)
        subscription.open = True
        self._hub.watch(subscription, self)
        return subscription


class LongPolls:
    """All long polls.

    Args:
        hub: has the result log.
        answers: the memory for answers.
    """

    def __init__(self, hub: Hub, answers: Budget) -> None:
        self.hub, self._answers = hub, answers
        self._reading = asyncio.Semaphore(READS)
        self._polls: set[Poll] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._polls)

    @contextmanager
    def begin(self, access: Access) -> Iterator[Poll]:
        """Begin a poll for the time of a block. `access`: of its request."""
        poll = Poll(self, access)
        self._polls.add(poll)
        self.hub.enter(poll)
        if self._closed:
            poll.close()
        try:
            yield poll
        finally:
            poll.end()
            self.hub.exit(poll)
            self._polls.discard(poll)

    async def read(
        self, wanted: Mapping[str, Any], after: str | None, limit: int, within: tuple[str, ...]
    ) -> ItemList:
        """Return a page of results, when it is this poll's turn."""
        async with self._reading:
            with self._answers.hold(PAGE_BYTES):
                return await results_page(self.hub, wanted, after=after, limit=limit, within=within)

    def close(self) -> None:
        """End all polls now, and those that begin later at once."""
        self._closed = True
        for poll in [*self._polls]:
            poll.close()
