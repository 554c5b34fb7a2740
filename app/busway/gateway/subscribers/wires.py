"""The transports of a connection's text: a WebSocket, or a streaming response body."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Awaitable, Callable, Coroutine, Generator, MutableMapping
from typing import Any, Protocol

from busway.gateway.subscribers import stream


def begin(coroutine: Coroutine[Any, Any, None]) -> Awaitable[None] | None:
    """Run `coroutine` until it waits. Return an awaitable for the rest, or None if it ended.

    Exceptions of the coroutine propagate.
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
        finally:
            del step  # an exception would keep this frame, and so itself


RawSend = Callable[[dict[str, Any]], Coroutine[Any, Any, None]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class Wire(Protocol):
    """Sends text in order. Each call returns a coroutine that waits for buffer space.

    `transport` is the server's transport, or None. After a disconnect, calls raise OSError or do nothing.
    """

    transport: Any

    def offer(self, text: str) -> bool:
        """Send text now if that needs no waiting. Otherwise return False and send nothing."""

    def send(self, text: str) -> Coroutine[Any, Any, None]:
        """Send text."""

    def close(self, code: int, reason: str) -> Coroutine[Any, Any, None]:
        """Close the wire with a code and a reason."""


class StreamWire:
    """A response body whose headers are already sent.

    Args:
        send: the server's ASGI send.
    """

    __slots__ = ("_send", "quiet", "transport")

    def __init__(self, send: RawSend) -> None:
        self._send = send
        self.transport = transport(send)
        self.quiet = False  # set by the heartbeat; cleared when something is sent

    def offer(self, _text: str) -> bool:
        """Return False: only `send` can wait for space."""
        return False

    async def send(self, text: str) -> None:
        """Send a part of the body."""
        self.quiet = False
        await self._send({"type": "http.response.body", "body": text.encode(), "more_body": True})

    async def close(self, code: int, reason: str) -> None:
        """Send a `close` event and end the body."""
        await self._send({"type": "http.response.body", "body": stream.closed(code, reason).encode()})


def transport(send: RawSend) -> Any:
    """Return the transport of an ASGI `send` of our own server, also when wrapped. Otherwise None."""
    return getattr(getattr(inspect.unwrap(send), "__self__", None), "transport", None)
