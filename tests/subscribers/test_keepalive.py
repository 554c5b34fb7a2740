"""Pings both ways: peers that are gone are found, peers that are slow are not cut."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from busway.gateway.door import websocket
from busway.gateway.server import _config
from busway.gateway.settings import Settings

from tests.subscribers.kit import Server, Store, peer, serve, store, until
from tests.subscribers.raw import PING, PONG, TEXT, Dial, Frame, RawPeer, dialling, frame

Claim = Callable[[Store, Server, Dial], Awaitable[None]]

linux = pytest.mark.skipif(sys.platform != "linux", reason="tells a dead peer by what Linux's kernel knows")


def run(folder: Path, claim: Claim, pings: tuple[float, float] = (0.1, 0.4)) -> None:
    async def scene() -> None:
        async with store(folder) as there:
            made = Server(there)
            made.pings = pings
            async with serve(made), dialling() as dial:
                await claim(there, made, dial)

    asyncio.run(scene())


async def heard_pings(client: RawPeer, count: int) -> list[Frame]:
    found: list[Frame] = []
    while len(found) < count:
        heard = await client.hear()
        assert heard is not None, "the server ended the connection"
        if heard.opcode == PING:
            found.append(heard)
    return found


def test_a_peer_that_is_gone_is_found_within_a_minute_of_its_last_sign() -> None:
    config = _config(None, Settings(), None)  # type: ignore[arg-type]
    assert (config.ws_ping_interval, config.ws_ping_timeout) == (websocket.PING_EVERY, websocket.PONG_WITHIN)
    assert websocket.PING_EVERY + websocket.PONG_WITHIN < 60


@linux
def test_a_half_open_connection_is_found(tmp_path: Path) -> None:
    async def claim(there: Store, made: Server, dial: Dial) -> None:
        gone = await dial(made.port, "?after=latest")
        await gone.hear()
        async with peer(made) as other:
            gone.vanish()
            await until(lambda: there.hub.status()["connections"] == 1)
            assert await other.ask(op="ping") == {"op": "pong"}

    run(tmp_path, claim)


@linux
def test_a_half_open_connection_with_much_unsent_is_found(tmp_path: Path) -> None:
    async def claim(there: Store, made: Server, dial: Dial) -> None:
        gone = await dial(made.port, "?after=latest", receive_buffer=4096)
        await gone.hear()
        gone.vanish()
        await there.produce(100, data=json.dumps("x" * 100_000).encode())
        await until(lambda: there.hub.status()["connections"] == 0)

    run(tmp_path, claim)


@linux
def test_a_peer_that_answers_no_ping_but_is_there_is_not_cut(tmp_path: Path) -> None:
    async def claim(there: Store, made: Server, dial: Dial) -> None:
        client = await dial(made.port, "?after=latest")
        assert len({ping.payload for ping in await heard_pings(client, 4)}) == 4
        await there.produce(1)
        while (heard := await client.hear()) is not None and heard.opcode != TEXT:
            pass
        assert heard is not None
        assert there.hub.status()["connections"] == 1

    run(tmp_path, claim)


@linux
@pytest.mark.long
def test_a_reader_that_stops_for_many_pings_gets_everything_when_it_goes_on(tmp_path: Path) -> None:
    async def claim(there: Store, made: Server, dial: Dial) -> None:
        client = await dial(made.port, "?after=latest", receive_buffer=4096)
        await client.hear()
        client.pause()
        await there.produce(300, data=json.dumps("x" * 30_000).encode())
        await until(lambda: there.hub.status()["lagging"] == 1)
        async with peer(made) as other:
            watch = made.connections
            pings = await dial(made.port)
            await heard_pings(pings, 3)  # so long that the silent one missed as many
            await pings.end()
            assert await other.ask(op="ping") == {"op": "pong"}
        assert watch == 2
        client.resume()
        seen = 0
        while seen < 300:
            heard = await client.hear()
            assert heard is not None, f"cut after {seen}"
            if heard.opcode == TEXT:
                for item in json.loads(heard.payload).get("items", ()):
                    seen += 1
                    assert item["event"]["seq"] == seen

    run(tmp_path, claim, pings=(0.2, 2.0))


def test_pings_of_a_client_are_answered_with_what_they_carry(tmp_path: Path) -> None:
    async def claim(_there: Store, made: Server, dial: Dial) -> None:
        client = await dial(made.port, "?after=latest")
        await client.hear()
        await client.send(frame(PING, b"are you there"))
        assert await client.hear() == Frame(PONG, b"are you there")

    run(tmp_path, claim, pings=(20, 30))
