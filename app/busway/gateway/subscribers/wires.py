"""What carries a connection's text: a WebSocket, or the body of a response that does not end."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, MutableMapping
from typing import Any, Protocol

from busway.gateway.subscribers import stream


def begin(coroutine: Coroutine[Any, Any, None]) -> Awaitable[None] | None:
    """Run `coroutine` until it waits; return what is left of it, None if it ended.

    Raises:
        Whatever it raised.
    """
    try:
        awaited = coroutine.send(None)
    except StopIteration:
        return None
    return _rest(coroutine, awaited)


@types.coroutine
def _rest(coroutine: Coroutine[Any, Any, None], awaited: Any) -> Generator[Any, Any, None]:
    while True:
        step: Callable[[], Any]
        try:
            step = functools.partial(coroutine.send, (yield awaited))
        except BaseException as problem:
            step = functools.partial(coroutine.throw, problem)
        try:
            awaited = step()
        except StopIteration:
            return


RawSend = Callable[[dict[str, Any]], Coroutine[Any, Any, None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Wire(Protocol):
    """Sends in order; each call is a coroutine that waits until there is room.

    `transport` is the server's, None where it is unknown. A gone client is an OSError, or nothing at all.
    """

    transport: Any

    def offer(self, text: str) -> bool:
        """Send text at once if that needs no waiting; False, and nothing is sent, if it may."""

    def send(self, text: str) -> Coroutine[Any, Any, None]:
        """Send text."""

    def close(self, code: int, reason: str) -> Coroutine[Any, Any, None]:
        """Send the last there is, and say why."""


class StreamWire:
    """The body of a response whose head went out already.

    Args:
        send: the server's ASGI send.
    """

    __slots__ = ("_send", "quiet", "transport")

    def __init__(self, send: RawSend) -> None:
        self._send = send
        self.transport = transport(send)
        self.quiet = False  # nothing was sent since somebody set it

    def offer(self, _text: str) -> bool:
        """Send nothing: only `send` knows of what is sent."""
        return False

    async def send(self, text: str) -> None:
        """Send a part of the body."""
        self.quiet = False
        await self._send({"type": "http.response.body", "body": text.encode(), "more_body": True})

    async def close(self, code: int, reason: str) -> None:
        """Say why, and end the body."""
        await self._send({"type": "http.response.body", "body": stream.closed(code, reason).encode()})


def transport(send: RawSend) -> Any:
    """Return the transport behind an ASGI send where it is the door's own, or wraps it, else None."""
    return getattr(getattr(inspect.unwrap(send), "__self__", None), "transport", None)
