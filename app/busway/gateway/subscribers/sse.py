"""The ASGI endpoint for Server-Sent Events: one subscription per response."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import MutableMapping
from typing import Any

from busway.gateway.access.scopes import Access
from busway.gateway.errors import BadSubscription, BuswayError, Unavailable
from busway.gateway.limits import ADDRESS, NO_LIMITS, Limits
from busway.gateway.subscribers import stream
from busway.gateway.subscribers.connection import Connection
from busway.gateway.subscribers.hub import Hub
from busway.gateway.subscribers.oneline import DEFAULT, read_query
from busway.gateway.subscribers.session import Open, Start, StreamSession
from busway.gateway.subscribers.wires import RawSend, Receive, StreamWire

logger = logging.getLogger("busway.sse")

HEARTBEAT = 10.0  # seconds of silence after which a comment is sent
USER_TIMEOUT = 50  # seconds that sent data may stay unacknowledged by the peer's TCP
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store, no-transform"),
    (b"x-accel-buffering", b"no"),  # stops nginx from buffering
    (b"x-content-type-options", b"nosniff"),
]


class StreamShell:
    """Serves `GET /v1/subscribe/sse`.

    Args:
        hub: the source of the results.
        limits: of each client.
    """

    def __init__(self, hub: Hub, limits: Limits = NO_LIMITS) -> None:
        self._hub, self._limits = hub, limits

    async def __call__(
        self,
        scope: MutableMapping[str, Any],
        receive: Receive,
        send: RawSend,
        access: Access,
        *,
        head: bool = False,
    ) -> None:
        """Serve one stream until either side closes it. With `head`, send only the headers.

        Raises:
            BuswayError: the stream cannot begin. Nothing was sent.
        """
        if self._hub.closing:
            await ask_to_reconnect(scope, send, self._hub.closing[1])
            return
        shares = self._limits.shares(access.key, scope.get(ADDRESS))
        session = StreamSession(access, self._hub.epoch)
        opening = session.begin(_fields(scope))
        wire = StreamWire(send)
        with self._limits.connected(access.key):
            connection = Connection(session, self._hub, wire, access, shares)
            try:
                start = await self._locate(connection, opening)
                await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
                if head:
                    await send({"type": "http.response.body", "body": b""})
                    return
                await self._follow(connection, opening, start, receive, wire)
            finally:
                connection.end()

    async def _locate(self, connection: Connection, opening: Open) -> Start:
        try:
            connection.check_room(opening.subscription)
            return await self._hub.locate(opening.after)
        except BuswayError:
            raise
        except Exception:
            logger.exception("cannot begin a stream")
            raise Unavailable("the result log cannot be read now: subscribe again later") from None

    async def _follow(
        self, connection: Connection, opening: Open, start: Start, receive: Receive, wire: StreamWire
    ) -> None:
        self._hub.enter(connection)
        beat = _Heartbeat(connection, wire)
        _set_user_timeout(wire.transport)
        try:
            connection.begin(opening.subscription, start)
            if self._hub.closing:
                connection.close(*self._hub.closing, flush=True)
            while (await receive())["type"] != "http.disconnect":
                pass
        finally:
            beat.stop()


class _Heartbeat:
    """Sends a comment on an idle stream, so that proxies keep it open and dead peers are detected."""

    def __init__(self, connection: Connection, wire: StreamWire) -> None:
        self._connection, self._wire = connection, wire
        self._loop = asyncio.get_running_loop()
        self._next = self._loop.call_later(HEARTBEAT, self._beat)

    def stop(self) -> None:
        """Stop the heartbeat."""
        self._next.cancel()

    def _beat(self) -> None:
        if self._wire.quiet and self._connection.idle:
            self._connection.answer(stream.HEARTBEAT)
        self._wire.quiet = True
        self._next = self._loop.call_later(HEARTBEAT, self._beat)


def _set_user_timeout(transport: Any) -> None:
    # The client sends nothing on this stream: only TCP can detect a dead peer (RFC 5482).
    if transport is not None and hasattr(socket, "TCP_USER_TIMEOUT"):
        with contextlib.suppress(OSError):
            transport.get_extra_info("socket").setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, USER_TIMEOUT * 1000
            )


def _fields(scope: MutableMapping[str, Any]) -> dict[str, Any]:
    fields = read_query(scope.get("query_string", b"")) or {"id": DEFAULT}
    if fields.get("durable") is not None:
        raise BadSubscription("a stream cannot acknowledge: remove 'durable' or use the WebSocket")
    last = _header(scope, b"last-event-id")
    return {**fields, "after": last} if last else fields


async def ask_to_reconnect(scope: MutableMapping[str, Any], send: RawSend, reason: str) -> None:
    """Answer 200 and a `close` event: an EventSource does not reconnect after any other status.

    Raises:
        Unavailable: the client does not accept `text/event-stream`.
    """
    if "text/event-stream" not in _header(scope, b"accept"):
        raise Unavailable(reason)
    await send({"type": "http.response.start", "status": 200, "headers": _HEADERS})
    body = stream.retry() + stream.closed(1012, reason)
    await send({"type": "http.response.body", "body": body.encode()})


def _header(scope: MutableMapping[str, Any], wanted: bytes) -> str:
    for name, value in scope["headers"]:
        if name == wanted:
            return str(value.decode("latin-1"))
    return ""
