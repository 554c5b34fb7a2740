"""Handshakes: what becomes a WebSocket, what does not, and what stands behind them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from busway.gateway.errors import Unauthorized
from websockets.exceptions import ConnectionClosed

from tests.subscribers.kit import Server, peer, seqs, serve, store
from tests.subscribers.raw import TEXT, dialling, frame


@pytest.mark.parametrize(
    ("extra", "status"),
    [
        ("Content-Length: 2\r\n", 400),
        ("Transfer-Encoding: chunked\r\n", 400),
        ("Sec-WebSocket-Key: again\r\n", 400),
        ("Sec-WebSocket-Version: 12\r\n", 400),
        ("Host: other\r\n", 400),
    ],
)
def test_a_handshake_that_is_none_is_refused_and_not_left_open(
    tmp_path: Path, extra: str, status: int
) -> None:
    async def claim() -> None:
        async with store(tmp_path) as there, serve(Server(there)) as server, dialling() as dial:
            client = await dial(server.port, extra=extra)
            assert client.answer.split()[1] == str(status)
            assert "application/problem+json" in client.answer
            while await client.hear() is not None:  # its body, then the end
                pass
            assert server.connections == 0

    asyncio.run(claim())


def test_frames_behind_the_handshake_in_one_packet_are_taken(tmp_path: Path) -> None:
    async def claim() -> None:
        async with store(tmp_path) as there, serve(Server(there)) as server:
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(
                b"GET /v1/subscribe HTTP/1.1\r\nHost: localhost\r\nUpgrade: WebSocket\r\n"
                b"Connection: keep-alive, Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
                b"Sec-WebSocket-Version: 13\r\n\r\n" + frame(TEXT, b'{"op":"ping"}')
            )
            assert b" 101 " in await reader.readline()
            await reader.readuntil(b"\r\n\r\n")
            assert await reader.readexactly(15) == b"\x81\x0d" + b'{"op":"pong"}'
            writer.close()

    asyncio.run(claim())


def test_subscribing_works_over_another_servers_asgi_too(tmp_path: Path) -> None:
    async def claim() -> None:
        async with store(tmp_path) as there:
            server = Server(there)
            async with serve(server, http="httptools", ws="websockets-sansio"), peer(server) as client:
                await client.ask(op="subscribe", id="s1")
                await there.produce(3)
                assert seqs(await client.items(3)) == [1, 2, 3]
                assert await client.ask(op="ping") == {"op": "pong"}
                server.access = Unauthorized("no key")
                async with peer(server) as refused:
                    with pytest.raises(ConnectionClosed):
                        await refused.hear()
                    assert refused.socket.close_code == 4401

    asyncio.run(claim())
