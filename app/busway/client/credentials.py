"""What a client sends to say who it is: an API key, a token, or what a function returns."""

from __future__ import annotations

import asyncio
import base64
import inspect
import time
from collections.abc import Awaitable, Callable

import msgspec

Key = str | Callable[[], str] | Callable[[], Awaitable[str]]
"""An API key or a token, or a function that returns one."""

REMEMBERED = 60.0  # seconds for which what a function returned is used, if it is no token that says its end
BEFORE = 30.0  # seconds before the end of a token at which a fresh one is wanted, at most
PART = 0.2  # of the time that a token has left, at most


class Credentials:
    """The key of a client. What a function returned is used until shortly before it expires.

    Args:
        key: as for `Client`.
    """

    def __init__(self, key: Key | None) -> None:
        self._key = key
        self._text = key if isinstance(key, str) else None
        self._until = float("inf") if key is None or isinstance(key, str) else 0.0
        self._asking = asyncio.Lock()

    @property
    def renews(self) -> bool:
        """Whether a function returns the key."""
        return callable(self._key)

    @property
    def left(self) -> float:
        """Seconds until the function is called again."""
        return self._until - time.time()

    async def text(self) -> str | None:
        """Return the key. The function is called if there is none, or it is about to expire.

        Exceptions of the function propagate.

        Raises:
            TypeError: the function returned something else than text.
        """
        if self.left > 0:
            return self._text
        async with self._asking:
            if self.left <= 0 and callable(self._key):
                # A function that waits, such as for an answer over HTTP, must not stop the loop.
                found = (
                    self._key()
                    if inspect.iscoroutinefunction(self._key)
                    else await asyncio.to_thread(self._key)
                )
                text = await found if inspect.isawaitable(found) else found
                if not isinstance(text, str):
                    raise TypeError(f"the function for the key must return a str, not {type(text).__name__}")
                self._text, self._until = text.strip(), time.time() + lasts(text)
        return self._text

    async def headers(self) -> dict[str, str]:
        """Return the headers of a request."""
        text = await self.text()
        return {"Authorization": f"Bearer {text}"} if text else {}

    def refused(self, text: str | None) -> bool:
        """Forget a key that the gateway refused. Return whether a function may return another one."""
        if self.renews and text == self._text:
            self._until = 0.0
        return self.renews


class _Claims(msgspec.Struct):
    exp: float


def lasts(text: str) -> float:
    """Return for how many seconds a key should be used. Only the gateway checks whether it is valid."""
    try:
        body = text.split(".")[1].encode()
        left = msgspec.json.decode(base64.urlsafe_b64decode(body + b"=="), type=_Claims).exp - time.time()
    except (ValueError, IndexError):  # msgspec's errors are ValueErrors
        return REMEMBERED
    return max(1.0, left - min(BEFORE, left * PART))
