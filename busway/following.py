"""Following results over a WebSocket, over as many connections as it takes."""

from __future__ import annotations

import asyncio
import base64
import json
import random
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

from busway.problems import BuswayClientError, Gap, describe, refusal

FIRST_DELAY, LAST_DELAY = 0.1, 10.0  # seconds between attempts to connect again
FATAL_CLOSES = {1008, 4400, 4401}
FATAL_STATUS = {400, 401, 403, 404, 421}

OnReconnect = Callable[[str, float], None]


class Origin(msgspec.Struct, frozen=True):
    """What an item says of its event."""

    seq: int
    id: str
    type: str
    source: str
    subject: str | None = None
    correlationid: str | None = None


class ItemError(msgspec.Struct, frozen=True):
    """Why an attempt failed."""

    type: str
    message: str


class Item(msgspec.Struct, kw_only=True):
    """One result. `data` is decoded JSON, or bytes where the handler gave bytes; `time` is RFC 3339."""

    cursor: str
    kind: str
    event: Origin
    handler: str
    revision: int
    run: int
    attempt: int
    index: int | None = None
    data: Any = None
    data_base64: str | None = None
    error: ItemError | None = None
    completes: dict[str, int] | None = None
    replay: bool = False
    time: str

    def __post_init__(self) -> None:
        """Decode binary data."""
        if self.data_base64 is not None:
            self.data = base64.b64decode(self.data_base64)


class _Frame(msgspec.Struct):
    op: str
    items: list[Item] = []
    cursor: str = ""
    recovered: bool = True
    oldest: str = ""
    code: str = ""
    detail: str = ""


_read_frame = msgspec.json.Decoder(_Frame).decode


class Following:
    """One subscription over as many connections as it takes."""

    def __init__(
        self, address: str, headers: dict[str, str], timeout: float, wanted: dict[str, Any], after: str | None
    ) -> None:
        self._address = address
        self._headers = headers
        self._timeout = timeout
        self._wanted = wanted
        self._cursor = after
        self._socket: ClientConnection | None = None
        self._closed = False

    async def items(self, on_reconnect: OnReconnect | None) -> AsyncIterator[Item]:
        """Yield items until closed."""
        began = False
        delay = FIRST_DELAY
        while not self._closed:
            try:
                self._socket = await self._connect()
                async for frame in self._frames(self._socket):
                    began, delay = True, FIRST_DELAY
                    for item in frame.items:
                        yield item
                        self._cursor = item.cursor
                    self._cursor = frame.cursor
                problem = "the gateway closed the connection"
            except (OSError, TimeoutError, InvalidHandshake, ConnectionClosed) as failure:
                problem = _reason(self._address, failure, began=began)
            finally:
                await self._hang_up()
            if self._closed:
                return
            pause = delay * random.uniform(0.5, 1)  # noqa: S311 (spreads clients, hides nothing)
            if on_reconnect:
                on_reconnect(problem, pause)
            await asyncio.sleep(pause)
            delay = min(delay * 2, LAST_DELAY)

    async def close(self) -> None:
        """End; whoever iterates sees the end."""
        self._closed = True
        await self._hang_up()

    async def _connect(self) -> ClientConnection:
        try:
            return await connect(
                self._address,
                additional_headers=self._headers,
                subprotocols=["busway.v1"],  # type: ignore[list-item] # a NewType of str
                compression=None,
                max_size=None,
                open_timeout=self._timeout,
                ping_timeout=60,
                close_timeout=1,
            )
        except InvalidURI as problem:
            raise BuswayClientError(f"{self._address} is no address: {problem}") from None

    async def _frames(self, socket: ClientConnection) -> AsyncIterator[_Frame]:
        request = {"op": "subscribe", "id": "s1", "after": self._cursor, **self._wanted}
        await socket.send(json.dumps(request))
        while True:
            frame = _read_frame(await socket.recv())
            if frame.op == "error":
                _raise_error(frame)
            if not frame.recovered:
                detail = "results after that cursor are no longer kept, or it is of another log"
                raise Gap(
                    f"{detail}: subscribe again from 'earliest' or 'latest'", frame.cursor, frame.oldest
                )
            if frame.op in {"subscribed", "results"}:
                yield frame

    async def _hang_up(self) -> None:
        socket, self._socket = self._socket, None
        if socket is not None:
            await socket.close()


class _Unavailable(ConnectionError):
    """The gateway cannot serve the subscription now: connect again."""


def _raise_error(frame: _Frame) -> None:
    if frame.code == "unavailable":
        raise _Unavailable(frame.detail)
    raise BuswayClientError(frame.detail, code=frame.code)


def _reason(address: str, failure: Exception, *, began: bool) -> str:
    """Say why to connect again.

    Raises:
        BuswayClientError: there is no point in it.
    """
    if isinstance(failure, ConnectionClosed) and failure.rcvd and failure.rcvd.code in FATAL_CLOSES:
        code, reason = failure.rcvd.code, failure.rcvd.reason
        raise BuswayClientError(reason or f"closed with {code}", code=code) from None
    if isinstance(failure, InvalidStatus):
        status = failure.response.status_code
        if status in FATAL_STATUS or not began:
            raise refusal(status, bytes(failure.response.body or b"")) from None
        return f"the gateway answered {status}"
    if not began and not isinstance(failure, _Unavailable | ConnectionClosed):
        raise BuswayClientError(
            f"no gateway answers at {address}: start one with `busway serve`, or check the address "
            f"({describe(failure)})"
        ) from failure
    return describe(failure)
