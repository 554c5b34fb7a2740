"""The error for tokens whose signing key may become known in a moment."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from busway.gateway.errors import Unavailable

WAIT = 6.0  # seconds
_ATTEMPTS = 2  # a read may be under way that began before the token was signed

T = TypeVar("T")


class KeysPending(Unavailable):
    """The keys of the issuer are being read: whether the token is valid is known when that has ended."""

    def __init__(self, reading: asyncio.Future[None]) -> None:
        super().__init__("the keys of the issuer of tokens are being read: try again in a moment")
        self._reading = reading

    async def wait(self) -> None:
        """Wait until the keys have been read, but only for some seconds."""
        await asyncio.wait([self._reading], timeout=WAIT)


async def settled(attempt: Callable[[], T]) -> T:
    """Return what `attempt` returns, once the keys that it needs have been read."""
    for _ in range(_ATTEMPTS):
        try:
            return attempt()
        except KeysPending as pending:
            await pending.wait()
    return attempt()
