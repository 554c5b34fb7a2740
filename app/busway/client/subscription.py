"""A subscription as who takes its items holds it."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Self, cast

from busway.client.following import Following
from busway.contract.results import Item


class Subscription:
    """An asynchronous iterator of items, and a context manager that lets go of the connection.

    async with client.subscribe("order.*") as results:
        async for item in results:
            ...

    Without `async with` the connection goes when the iterator does.
    """

    def __init__(self, following: Following) -> None:
        self._following = following
        # Not following.items alone: who drops this object ends the generator, and it the connection.
        self._items = following.items()

    @property
    def cursor(self) -> str | None:
        """Where to resume, as `after`: behind the last item that was dealt with; None before it is open.

        An item was dealt with once the next one was asked for.
        """
        return self._following.cursor if self._following.began else None

    async def open(self) -> Self:
        """Subscribe now instead of with the first item: what is published after this is not missed.

        Raises:
            BuswayClientError: refused, or the gateway could not be reached in the first place.
            Gap: the place to go on from is no longer in the log.
        """
        await self._following.open()
        return self

    async def aclose(self) -> None:
        """Let go of the connection; whoever iterates sees the end."""
        await self._following.close()
        with contextlib.suppress(RuntimeError):  # somebody is in it, and sees the end
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
