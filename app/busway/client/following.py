"""Receives the results of one subscription over a WebSocket, and reconnects."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncGenerator, Callable

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from busway.client.credentials import Credentials
from busway.client.errors import (
    BuswayClientError,
    Gap,
    Gateway,
    describe,
    refusal,
    refused,
    unreachable,
)
from busway.client.network import Network
from busway.contract.frames import (
    SERVER_FRAMES,
    AckFrame,
    AuthenticateFrame,
    ErrorFrame,
    ResultsFrame,
    ServerFrame,
    SubscribedFrame,
    SubscribeFrame,
)
from busway.contract.results import Item

FIRST_DELAY, LAST_DELAY = 0.1, 10.0  # seconds between reconnects
PING_EVERY, PONG_WITHIN = 20, 40  # seconds: a dead gateway is detected within a minute
ACK_EVERY = 1.0  # seconds: slowly processed items are acknowledged before the end of their frame
REMEMBERED = 10_000  # cursors of a durable subscription kept to drop duplicates
FATAL_CLOSES = {1008, 4400, 4401}
FATAL_STATUS = {400, 401, 403, 404, 421}
NAME = "s1"
"""The id of the one subscription of a connection."""
TOKEN = "token"  # noqa: S105 - the `ref` of frames about tokens

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ServerFrame).decode
_KNOWN = {shape.__struct_config__.tag for shape in SERVER_FRAMES}

OnReconnect = Callable[[str, float], None]
OnConnect = Callable[[], None]


class _Unavailable(ConnectionError):
    """The gateway cannot serve the subscription now. Reconnect."""


class Following:
    """One subscription that reconnects after a lost connection.

    Args:
        gateway: the gateway.
        network: how to reach it.
        credentials: what to say who the client is.
        wanted: the fields of the subscription.
        on_reconnect: called before it reconnects, with the reason and the delay in seconds.
        on_connect: called each time it is open.
        ended: called when it is closed.

    Attributes:
        cursor: where to resume. All items up to here were processed.
        began: whether it was ever open.
    """

    def __init__(
        self,
        gateway: Gateway,
        network: Network,
        credentials: Credentials,
        wanted: SubscribeFrame,
        on_reconnect: OnReconnect | None,
        on_connect: OnConnect | None,
        ended: Callable[[Following], None],
    ) -> None:
        self.cursor = wanted.after
        self._gateway, self._network, self._wanted = gateway, network, wanted
        self._credentials = credentials
        self._key: str | None = None  # of the connection
        self._refused: str | None = None  # the last one that the gateway refused
        self._renewing: asyncio.Task[None] | None = None
        self._on_reconnect, self._on_connect, self._ended = on_reconnect, on_connect, ended
        self._socket: ClientConnection | None = None
        self.began = False
        self._delay = FIRST_DELAY
        self._closing = asyncio.Event()
        self._hanging_up = asyncio.Lock()
        self._durable = wanted.durable is not None
        self._acknowledged, self._acknowledged_at = "", 0.0
        self._taken: dict[str, None] = {}

    async def open(self) -> None:
        """Connect and subscribe. Retry until it succeeds, is refused or is closed.

        Raises:
            BuswayClientError: the gateway refused, or the first connection failed.
            Gap: results after the cursor are no longer available.
        """
        while self._socket is None and not self._closing.is_set():
            try:
                self._socket = await self._connect()
                await self._subscribe(self._socket)
            except (OSError, TimeoutError, InvalidHandshake, ConnectionClosed) as failure:
                await self._lost(failure)
            except BaseException:
                await self._hang_up()
                raise
        if self._closing.is_set():
            await self._hang_up()

    async def items(self) -> AsyncGenerator[Item, None]:
        """Yield items until closed. Requesting the next item marks the previous one as processed.

        Raises:
            BuswayClientError, Gap: as `open`.
        """
        try:
            while (frame := await self._next()) is not None:
                for item in self._fresh(frame.items):
                    yield item
                    self.cursor = item.cursor
                    await self._acknowledge(ACK_EVERY)
                self.cursor = frame.cursor
                await self._acknowledge(0)
        finally:
            await self.close()

    async def close(self) -> None:
        """Close. Iteration ends."""
        self._closing.set()
        if self._renewing is not None:
            self._renewing.cancel()
        await self._acknowledge(0)
        await self._hang_up()
        self._ended(self)

    async def _next(self) -> ResultsFrame | None:
        while True:
            await self.open()
            if self._socket is None:
                return None
            try:
                frame = self._read(await self._socket.recv())
            except (OSError, ConnectionClosed) as failure:
                await self._lost(failure)
                continue
            if isinstance(frame, ResultsFrame):
                return frame

    async def _connect(self) -> ClientConnection:
        self._key = await self._credentials.text()
        try:
            return await connect(
                self._gateway.socket,
                additional_headers=await self._credentials.headers(),
                proxy=self._network.proxy,
                ssl=self._network.tls,
                subprotocols=["busway.v1"],  # type: ignore[list-item] # a NewType of str
                compression=None,
                max_size=None,
                open_timeout=self._gateway.timeout,
                ping_interval=PING_EVERY,
                ping_timeout=PONG_WITHIN,
                close_timeout=1,
            )
        except InvalidURI as problem:
            raise BuswayClientError(f"{self._gateway.url} is not a valid URL: {problem}") from None

    async def _subscribe(self, socket: ClientConnection) -> None:
        await socket.send(_encode(msgspec.structs.replace(self._wanted, after=self.cursor)).decode())
        async with asyncio.timeout(self._gateway.timeout):
            frame = self._read(await socket.recv())
        if not isinstance(frame, SubscribedFrame):
            raise _Unavailable(f"expected 'subscribed' from the gateway, got a {type(frame).__name__}")
        if not frame.recovered:
            detail = "the results after this cursor were deleted, or it belongs to another log"
            raise Gap(f"{detail}: subscribe again after 'earliest' or 'latest'", frame.cursor, frame.oldest)
        if not self._durable or self.cursor is None or not self.began:
            self.cursor = frame.cursor
        self.began, self._delay = True, FIRST_DELAY
        if self._credentials.renews and self._renewing is None:
            self._renewing = asyncio.create_task(self._renew())
        if self._on_connect:
            self._on_connect()

    def _read(self, text: str | bytes) -> ServerFrame | None:
        try:
            frame: ServerFrame = _decode(text)
        except msgspec.MsgspecError as problem:
            if _is_unknown(text):
                return None
            raise BuswayClientError(
                f"{self._gateway.url} sent an invalid frame, is it a Busway gateway? {problem}"
            ) from None
        if not isinstance(frame, ErrorFrame):
            return frame
        if frame.ref == TOKEN:  # the connection goes on until the token that it has ends
            return None
        if frame.code == "unavailable" or (frame.code == "bad_cursor" and self.began):
            raise _Unavailable(frame.detail)  # the next `subscribed` frame has the current bounds of the log
        raise refused(self._gateway, frame.detail, frame.code)

    def _fresh(self, items: list[Item]) -> list[Item]:
        """Drop duplicates: the gateway decides where a durable subscription resumes."""
        if not self._durable:
            return items
        fresh = [item for item in items if item.cursor not in self._taken]
        self._taken |= dict.fromkeys(item.cursor for item in fresh)
        while len(self._taken) > REMEMBERED:
            del self._taken[next(iter(self._taken))]
        return fresh

    async def _acknowledge(self, every: float) -> None:
        now = asyncio.get_running_loop().time()
        if not self._durable or not self._socket or self.cursor is None or self.cursor == self._acknowledged:
            return
        if now - self._acknowledged_at < every:
            return
        with contextlib.suppress(ConnectionClosed):  # acknowledged again after reconnecting
            await self._socket.send(_encode(AckFrame(id=NAME, cursor=self.cursor)).decode())
            self._acknowledged, self._acknowledged_at = self.cursor, now

    async def _renew(self) -> None:
        """Send a fresh token before the one of the connection ends."""
        while True:
            await asyncio.sleep(max(1.0, self._credentials.left))
            # Without a fresh one, the gateway says how the connection ends.
            with contextlib.suppress(Exception):
                key = await self._credentials.text()
                if key and key != self._key and self._socket is not None:
                    self._key = key
                    await self._socket.send(_encode(AuthenticateFrame(ref=TOKEN, token=key)).decode())

    def _may_renew(self, failure: Exception) -> bool:
        """Return whether a fresh key may help after the gateway refused the one of the connection."""
        if not (isinstance(failure, ConnectionClosed) and failure.rcvd and failure.rcvd.code == 4401):
            return False
        refused, self._refused = self._refused, self._key
        return refused != self._key and self._credentials.refused(self._key)

    async def _lost(self, failure: Exception) -> None:
        await self._hang_up()
        if self._closing.is_set():
            return
        problem = (
            "the key or token of the connection has ended"
            if self._may_renew(failure)
            else _reason(self._gateway, failure, began=self.began)
        )
        pause = self._delay * random.uniform(0.5, 1)  # noqa: S311 (spreads clients, hides nothing)
        self._delay = min(self._delay * 2, LAST_DELAY)
        if self._on_reconnect:
            self._on_reconnect(problem, pause)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), pause)

    async def _hang_up(self) -> None:
        async with self._hanging_up:  # concurrent callers wait until it is closed
            socket, self._socket = self._socket, None
            self._acknowledged = ""
            if socket is not None:
                await socket.close()


class _Op(msgspec.Struct):
    op: str


def _is_unknown(text: str | bytes) -> bool:
    """Return whether the `op` of a frame is unknown: a newer gateway may send it."""
    try:
        return msgspec.json.decode(text, type=_Op).op not in _KNOWN
    except msgspec.MsgspecError:
        return False


def _reason(gateway: Gateway, failure: Exception, *, began: bool) -> str:
    """Return the reason for a reconnect.

    Raises:
        BuswayClientError: reconnecting would not help.
    """
    if isinstance(failure, ConnectionClosed) and failure.rcvd and failure.rcvd.code in FATAL_CLOSES:
        raise refused(gateway, failure.rcvd.reason, failure.rcvd.code) from None
    if isinstance(failure, InvalidStatus):
        status = failure.response.status_code
        if status in FATAL_STATUS or not began:
            raise refusal(gateway, status, bytes(failure.response.body or b"")) from None
        return f"{gateway.url} answered {status}"
    if not began and not isinstance(failure, _Unavailable | ConnectionClosed):
        raise unreachable(gateway, failure) from failure
    if isinstance(failure, ConnectionClosed) and failure.rcvd is None:
        return "the connection broke"
    return describe(failure)
