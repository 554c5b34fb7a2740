"""What a subscriber took is free when it is gone, without the collector of reference cycles."""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from pathlib import Path

import pytest
from busway.gateway.door.protocol import HttpProtocol
from busway.gateway.door.websocket import WebSocket
from busway.gateway.subscribers.connection import Connection
from busway.gateway.subscribers.ring import Piece
from busway.gateway.subscribers.session import Subscription
from websockets.server import ServerProtocol

from tests.subscribers.kit import Server, serve, store, until

MANY = 5


def held() -> Counter[str]:
    kinds = (HttpProtocol, WebSocket, ServerProtocol, Connection, Piece, Subscription)
    return Counter(type(each).__name__ for each in gc.get_objects() if isinstance(each, kinds))


STREAM = b"GET /v1/subscribe/sse?after=earliest HTTP/1.1\r\nHost: localhost\r\n\r\n"
SOCKET = (
    b"GET /v1/subscribe?after=earliest HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
    b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
)


@pytest.mark.long
@pytest.mark.parametrize("reads", [True, False], ids=["reads", "reads nothing"])
@pytest.mark.parametrize("request_", [STREAM, SOCKET], ids=["stream", "socket"])
def test_a_subscriber_is_freed_when_it_is_gone(tmp_path: Path, request_: bytes, reads: bool) -> None:
    async def scene() -> None:
        async with store(tmp_path, 1 << 26) as there, serve(Server(there)) as server:
            await there.produce(100, data=b'"%b"' % (b"x" * 100_000))  # more than the buffers of sockets
            gc.collect()
            before = held()
            gc.disable()
            try:
                clients = [await begin(server.port, request_) for _ in range(MANY)]
                for reader, _ in clients:
                    await reader.readuntil(b'"kind"')
                    if reads:
                        await reader.readexactly(1_000_000)
                await asyncio.sleep(0.1)
                for _, writer in clients:
                    writer.transport.abort()
                del clients, reader, writer
                await there.produce(1)  # shared pieces are forgotten
                await until(lambda: held() == before)
            finally:
                gc.enable()

    asyncio.run(scene())


ENDS = {
    "goes away": b"",
    "says goodbye": b"\x88\x82\0\0\0\0\x03\xe8",
    "breaks the protocol": b"\x03\xea",
    "sends no UTF-8": b"\x81\x81\0\0\0\0\xff",
    "sends no JSON": b"\x81\x81\0\0\0\0x",
    "is refused": b"\x81\x8c\0\0\0\0" + b'{"op":"none"}'[:12],
}


@pytest.mark.parametrize("sent", ENDS.values(), ids=ENDS)
def test_a_socket_is_freed_however_it_ends(tmp_path: Path, sent: bytes) -> None:
    async def scene() -> None:
        async with store(tmp_path) as there, serve(Server(there)) as server:
            gc.collect()
            before = held()
            gc.disable()
            try:
                for _ in range(MANY):
                    reader, writer = await begin(server.port, SOCKET)
                    await reader.readuntil(b"\r\n\r\n")
                    writer.write(sent)
                    await asyncio.sleep(0.05)
                    writer.transport.abort()
                await until(lambda: held() == before)
            finally:
                gc.enable()

    asyncio.run(scene())


async def begin(port: int, request: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    return reader, writer
