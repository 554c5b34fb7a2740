"""Runs sessions over WebSockets, independent of the server that has the socket."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

from busway.gateway.access.scopes import Access
from busway.gateway.door.port import Socket
from busway.gateway.errors import (
    BadRequest,
    BuswayError,
    Forbidden,
    TooManyRequests,
    Unauthorized,
    Unavailable,
)
from busway.gateway.limits import NO_LIMITS, Limits, Share, pace
from busway.gateway.subscribers import cloudevents, frames
from busway.gateway.subscribers.connection import PUBLISHES, Connection
from busway.gateway.subscribers.hub import Hub
from busway.gateway.subscribers.oneline import read_query
from busway.gateway.subscribers.session import (
    Ack,
    Authenticate,
    Effect,
    Open,
    Pong,
    Publish,
    Session,
    Unsubscribe,
)
from busway.gateway.turns import Line

logger = logging.getLogger("busway.websocket")

TURN = 16_384  # bytes of frames in a row
_FRAME = 500  # what a frame counts besides its bytes
SUBPROTOCOLS = ("busway.v1", cloudevents.SUBPROTOCOL)

Publisher = Callable[[bytes, Access, Line], Awaitable[dict[str, Any]]]
Renew = Callable[[Access, str], Awaitable[Access]]


async def _no_tokens(_access: Access, _token: str) -> Access:
    raise Forbidden("this gateway accepts no tokens: go on without one")


class WebSocketShell:
    """Serves `/v1/subscribe`.

    Args:
        hub: the source of the results.
        publish: stores an event (JSON text) behind those of its line and returns its receipt, or raises a
            `BuswayError`.
        max_frame: the maximum size of a client's frame in bytes.
        renew: returns what a fresh token gives to a client that has this access, or raises a `BuswayError`.
        limits: of each client.
    """

    def __init__(
        self,
        hub: Hub,
        publish: Publisher,
        max_frame: int,
        renew: Renew = _no_tokens,
        limits: Limits = NO_LIMITS,
    ) -> None:
        self._hub, self._renew, self._limits = hub, renew, limits
        self._publish = publish
        self._max_frame = max_frame

    async def __call__(self, socket: Socket, *, query: bytes, access: Access | Unauthorized) -> None:
        """Serve one open socket until it closes.

        Args:
            socket: an open socket from which nothing was received yet.
            query: the query string of its URL.
            access: the rights of the client, or the error if its key or ticket is missing or invalid.
                `Host` and `Origin` are already checked.
        """
        if socket.subprotocol == cloudevents.SUBPROTOCOL:
            socket = cloudevents.CloudEventsSocket(socket)
        if isinstance(access, Unauthorized):
            return await socket.close(4401, access.detail)
        if self._hub.closing:
            return await socket.close(*self._hub.closing)
        try:
            fields = read_query(query)
        except BadRequest as problem:
            await socket.send(frames.error(problem))
            return await socket.close(4400, problem.detail)
        shares = self._limits.shares(access.key, socket.share)
        try:
            with self._limits.connected(access.key):
                served = _Served(
                    self._hub, self._publish, self._max_frame, self._renew, socket, access, shares
                )
                return await served.run(fields)
        except TooManyRequests as problem:
            return await socket.close(1013, problem.detail)


class _Served:
    """One accepted connection."""

    def __init__(
        self,
        hub: Hub,
        publish: Publisher,
        max_frame: int,
        renew: Renew,
        socket: Socket,
        access: Access,
        shares: list[Share],
    ) -> None:
        self._socket, self._renew = socket, renew
        self._rated = [share for share in shares if share.rated]
        self._publish = publish
        self._max_frame = max_frame
        self._session = Session(access, hub.epoch, cloudevents=socket.subprotocol == cloudevents.SUBPROTOCOL)
        self._connection = Connection(self._session, hub, socket, access, shares)
        self._publishing: set[asyncio.Task[None]] = set()
        self._line = Line()
        hub.enter(self._connection)

    async def run(self, fields: dict[str, Any] | None) -> None:
        """Process frames until the socket closes, then release everything."""
        try:
            if fields is not None:
                await self._apply(self._session.subscribe(fields))
            await self._receive()
        finally:
            self._connection.end()
        if self._publishing:  # they wait for a commit that other requests share: do not cancel
            await asyncio.wait(self._publishing)

    async def _receive(self) -> None:
        left = TURN
        while (message := await self._socket.receive()) is not None:
            if self._rated and (wait := pace(self._rated, 1)):
                await asyncio.sleep(wait)  # meanwhile nothing more is read from this socket
            if isinstance(message, bytes):
                effect = self._session.binary()
            elif self._too_large(message):
                reason = f"frame too large: the limit is {self._max_frame} bytes"
                self._connection.close(1009, reason, flush=False)
                continue
            else:
                effect = self._session.receive(message)
            await self._apply(effect)
            await self._connection.drain_answers()
            left -= _FRAME + len(message)
            if left < 0:  # more frames may be received already, and they must not hold the loop
                left = TURN
                await asyncio.sleep(0)

    def _too_large(self, text: str) -> bool:
        if len(text) * 4 <= self._max_frame:
            return False
        return len(text) > self._max_frame or len(text.encode()) > self._max_frame

    async def _apply(self, effect: Effect) -> None:
        if isinstance(effect, Publish):
            await self._start_publish(effect)
        elif isinstance(effect, Open):
            await self._connection.open(effect)
        elif isinstance(effect, Unsubscribe):
            self._connection.unsubscribe(effect)
        elif isinstance(effect, Ack):
            self._connection.acknowledge(effect)
        elif isinstance(effect, Pong):
            await self._connection.pong(effect)
        elif isinstance(effect, Authenticate):
            await self._authenticate(effect)
        else:
            self._connection.answer(effect.text)

    async def _authenticate(self, effect: Authenticate) -> None:
        try:
            access = await self._renew(self._connection.access, effect.token)
        except BuswayError as problem:
            self._connection.answer(self._session.failed(effect.ref, problem))
        else:
            self._connection.renew(effect.ref, access)

    async def _start_publish(self, effect: Publish) -> None:
        if len(self._publishing) >= PUBLISHES:
            await asyncio.wait(self._publishing, return_when=asyncio.FIRST_COMPLETED)
        publishing = asyncio.ensure_future(self._store(effect))
        self._publishing.add(publishing)
        publishing.add_done_callback(self._publishing.discard)

    async def _store(self, effect: Publish) -> None:
        try:
            receipt = await self._publish(effect.event, self._connection.access, self._line)
            text = self._session.published(effect.ref, receipt)
        except BuswayError as problem:
            text = self._session.failed(effect.ref, problem)
        except Exception:
            logger.exception("cannot publish the event of a frame")
            fault = Unavailable(
                "internal error: it is unknown whether the event was stored, send it again with the same id"
            )
            text = self._session.failed(effect.ref, fault)
        self._connection.answer(text)
