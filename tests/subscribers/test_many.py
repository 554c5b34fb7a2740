"""A thousand sockets: those that stop reading cost what their sockets hold, and the others go on."""

from __future__ import annotations

import asyncio
import json
import os
import random
from pathlib import Path
from typing import Any

import pytest

from tests.subscribers.kit import Server, number, serve, store, until
from tests.subscribers.raw import CLOSE, TEXT, Dial, RawPeer, dialling

SOCKETS, SLOW = 1_000, 10
LARGE = json.dumps("x" * 20_000).encode()
ROOM = 64 * 1024  # what uvloop and asyncio let a transport hold before they ask to pause


async def take(client: RawPeer, wanted: int) -> list[int]:
    """Read until there are so many items; return their numbers in the log."""
    found: list[int] = []
    while len(found) < wanted:
        heard = await client.hear()
        assert heard is not None, f"cut after {len(found)} items"
        assert heard.opcode != CLOSE, heard
        if heard.opcode == TEXT:
            frame = json.loads(heard.payload)
            assert frame["op"] in {"subscribed", "results"}, frame
            found += [number(item["cursor"]) for item in frame.get("items", ())]
    return found


async def connect(dial: Dial, port: int, count: int, query: str, receive_buffer: int = 0) -> list[RawPeer]:
    made: list[RawPeer] = []
    for start in range(0, count, 100):
        wave = (
            dial(port, query, receive_buffer=receive_buffer) for _ in range(start, min(start + 100, count))
        )
        made += await asyncio.gather(*wave)
    return made


@pytest.mark.long
def test_slow_readers_among_many_get_everything_and_hold_nobody_up(tmp_path: Path) -> None:
    seed = int(os.environ.get("BUSWAY_TEST_SEED", random.randrange(1 << 32)))
    print("BUSWAY_TEST_SEED", seed)
    chance = random.Random(seed)

    async def scene() -> None:
        async with store(tmp_path) as there, serve(Server(there)) as server, dialling() as dial:
            fast = await connect(dial, server.port, SOCKETS - SLOW, "?types=small.*&after=latest")
            slow = await connect(dial, server.port, SLOW, "?after=latest", receive_buffer=4096)
            await until(lambda: there.hub.status()["live"] == SOCKETS)
            for client in slow:
                client.pause()
            small: list[int] = []
            log = 0
            while len(small) < 30 or log < 330:
                type_ = chance.choice(("small.one", "large.one", "large.one"))
                count = chance.randrange(1, 6 if type_ == "small.one" else 20)
                await there.produce(count, type_, data=b"1" if type_ == "small.one" else LARGE)
                small += range(log + 1, log + 1 + count) if type_ == "small.one" else ()
                log += count
            taken = await asyncio.gather(*(take(client, len(small)) for client in fast))
            assert all(got == small for got in taken)
            await until(lambda: there.hub.status()["lagging"] == SLOW)
            held = [protocol.transport.get_write_buffer_size() for protocol in server.opened()]
            assert max(held) < 4 * ROOM
            assert sum(size > 0 for size in held) <= SLOW
            for client in chance.sample(slow, SLOW):
                client.resume()
            taken = await asyncio.gather(*(take(client, log) for client in slow))
            assert all(got == list(range(1, log + 1)) for got in taken)
            await until(lambda: there.hub.status()["lagging"] == 0)

    asyncio.run(scene())


def test_all_come_back_at_once_with_cursors_and_share_few_reads(tmp_path: Path) -> None:
    async def scene() -> None:
        async with store(tmp_path, ring_bytes=1) as there, serve(Server(there)) as server, dialling() as dial:
            await there.produce(200)
            reads = 0
            results = there.reader.results

            async def counted(*arguments: Any, **options: Any) -> object:
                nonlocal reads
                reads += 1
                return await results(*arguments, **options)

            there.reader.results = counted  # type: ignore[assignment,method-assign]
            clients = await connect(dial, server.port, 300, "?after=earliest")
            taken = await asyncio.gather(*(take(client, 200) for client in clients))
            assert all(got == list(range(1, 201)) for got in taken)
            assert reads < 150  # each reader alone would need one and more

    asyncio.run(scene())
