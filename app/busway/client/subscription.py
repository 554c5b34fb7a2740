"""The subscription object of the asynchronous client."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self, cast

from busway.client.following import Following
from busway.contract.results import Item


class Subscription:
    """An asynchronous iterator of items, and a context manager that closes the connection.

    async with client.subscribe("order.*") as results:
        async for item in results:
            ...

    Without `async with`, the connection closes when the iterator is garbage collected.
    """

    def __init__(self, following: Following) -> None:
        self._following = following
        # A generator: when this object is dropped, Python closes it, and it closes the connection.
        self._items = following.items()

    @property
    def cursor(self) -> str | None:
        """The cursor of the last processed item, to resume with `after`. None before it is open.

        An item is processed when the next one is requested.
        """
        return self._following.cursor if self._following.began else None

    async def open(self) -> Self:
        """Subscribe now, not at the first iteration. Results of events published after this are not missed.

        Raises:
            BuswayClientError: the gateway refused, or the first connection failed.
            Gap: results after the cursor are no longer available.
        """
        await self._following.open()
        return self

    async def aclose(self) -> None:
        """Close the connection. Iteration ends."""
        await self._following.close()
        with contextlib.suppress(RuntimeError):  # another task is iterating: its iteration ends by itself
            await self._items.aclose()

    def __aiter__(self) -> AsyncIterator[Item]:
        return cast("AsyncIterator[Item]", self)

    async def __anext__(self) -> Item:
        return await anext(self._items)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
