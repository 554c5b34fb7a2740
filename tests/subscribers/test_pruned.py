"""Cursors at places that retention pruned, over real sockets and with pruning while clients read."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from busway.domain import cursor
from busway.gateway.errors import Gone
from busway.gateway.store.port.commits import Committed
from busway.gateway.store.port.operations import PruneResults
from busway.gateway.subscribers.page import results_page

from tests.subscribers.kit import Server, Store, number, peer, seqs, serve, store, until

Claim = Callable[[Store, Server], Awaitable[None]]


def run(folder: Path, claim: Claim, ring_bytes: int = 1) -> None:
    async def scene() -> None:
        async with store(folder, ring_bytes) as there, serve(Server(there)) as server:
            await claim(there, server)

    asyncio.run(scene())


async def prune(there: Store, until_: int) -> None:
    await there.commits.change(PruneResults(until=until_))


async def cursor_behind(there: Store, number_: int) -> str:
    position = await there.reader.position(number_)
    assert position is not None
    return cursor.encode(there.hub.epoch, position)


def test_a_pruned_cursor_is_said_with_the_oldest_that_is_kept(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        await there.produce(10)
        lost, edge = await cursor_behind(there, 3), await cursor_behind(there, 4)
        await prune(there, 4)
        async with peer(server) as client:
            answer = await client.ask(op="subscribe", id="s1", after=lost)
            assert answer["recovered"] is False
            assert (number(answer["cursor"]), answer["oldest"]) == (10, edge)
            await there.produce(1)
            assert seqs(await client.items(1)) == [11]
            answer = await client.ask(op="subscribe", id="s2", after=answer["oldest"])
            assert answer["recovered"] is True
            assert seqs(await client.items(7, "s2")) == list(range(5, 12))

    run(tmp_path, claim)


def test_earliest_begins_behind_what_was_pruned(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        await there.produce(5)
        async with peer(server) as client:
            await prune(there, 2)
            answer = await client.ask(op="subscribe", id="s1", after="earliest")
            assert (answer["recovered"], number(answer["cursor"])) == (True, 2)
            assert seqs(await client.items(3)) == [3, 4, 5]
            await prune(there, 5)
            answer = await client.ask(op="subscribe", id="s2", after="earliest")
            assert (answer["recovered"], number(answer["cursor"])) == (True, 5)
            await there.produce(1)
            assert seqs(await client.items(1)) == [6]

    run(tmp_path, claim)


def test_a_cursor_at_the_head_holds_when_all_was_pruned(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        await there.produce(3)
        head = await cursor_behind(there, 3)
        await prune(there, 3)
        async with peer(server) as client:
            answer = await client.ask(op="subscribe", id="s1", after=head)
            assert (answer["recovered"], answer["cursor"], answer["oldest"]) == (True, head, head)
            await there.produce(1)
            assert seqs(await client.items(1)) == [4]
        page = await results_page(there.hub, after=head)
        assert len(page.items) == 1

    run(tmp_path, claim)


def test_a_cursor_that_only_memory_holds_is_honoured(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        await there.produce(5)
        place = await cursor_behind(there, 2)
        await prune(there, 4)
        async with peer(server) as client:
            answer = await client.ask(op="subscribe", id="s1", after=place)
            assert (answer["recovered"], answer["oldest"]) == (True, place)
            assert seqs(await client.items(3)) == [3, 4, 5]

    run(tmp_path, claim, ring_bytes=1 << 20)


def test_pages_of_pruned_places_are_refused_and_say_what_to_do(tmp_path: Path) -> None:
    async def claim(there: Store, _server: Server) -> None:
        await there.produce(4)
        lost, edge = await cursor_behind(there, 1), await cursor_behind(there, 2)
        await prune(there, 2)
        with pytest.raises(Gone, match="start again after 'earliest'") as refusal:
            await results_page(there.hub, after=lost)
        assert refusal.value.status == 410
        for after in (edge, "earliest", None):
            assert len((await results_page(there.hub, after=after)).items) == 2

    run(tmp_path, claim)


def test_who_lags_behind_pruning_gets_an_error_and_no_gap(tmp_path: Path) -> None:
    data = b'"' + b"x" * 20_000 + b'"'

    async def claim(there: Store, server: Server) -> None:
        with socket.socket() as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.connect(("127.0.0.1", server.port))
            async with peer(server, sock=raw, ping_interval=None, max_queue=1) as slow:
                await slow.ask(op="subscribe", id="s1")
                for _ in range(8):
                    await there.produce(100, data=data)
                await until(lambda: there.hub.status()["lagging"] == 1)
                await prune(there, 790)
                got: list[int] = []
                while (frame := await slow.hear())["op"] == "results":
                    got += seqs(frame["items"])
                assert (frame["op"], frame["id"], frame["code"]) == ("error", "s1", "bad_cursor")
                assert "subscribe again" in frame["detail"]
                assert got == list(range(1, len(got) + 1))
                assert len(got) < 790
                answer = await slow.ask(op="subscribe", id="s1", after="earliest")
                assert number(answer["cursor"]) == 790
                assert seqs(await slow.items(10)) == list(range(791, 801))

    run(tmp_path, claim)


def test_results_pruned_before_the_hub_saw_them_are_said_to_all_who_wait(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        async with peer(server) as client:
            await client.ask(op="subscribe", id="s1")
            hub = there.hub
            # As if its commits were told by number only.
            there.commits._completion._listeners.remove(hub.committed)
            await there.produce(5)
            await prune(there, 5)
            hub.committed(Committed(head=5, rescan=True))
            frame = await client.hear()
            assert (frame["op"], frame["code"]) == ("error", "bad_cursor")
            assert hub.latest.number == 5
            there.commits.listen(hub.committed)
            await client.ask(op="subscribe", id="s1")
            await there.produce(1)
            assert seqs(await client.items(1)) == [6]

    run(tmp_path, claim)


def test_pruning_while_many_catch_up_never_makes_a_silent_gap(tmp_path: Path) -> None:
    seed = int(os.environ.get("BUSWAY_TEST_SEED", random.randrange(1 << 32)))
    print("BUSWAY_TEST_SEED", seed)
    chance = random.Random(seed)

    async def claim(there: Store, server: Server) -> None:
        await there.produce(1_000, data=b'"' + b"x" * 500 + b'"')
        ended = [0, 0]

        async def follow() -> None:
            async with peer(server) as client:
                answer = await client.ask(op="subscribe", id="s1", after="earliest")
                place = number(answer["cursor"])
                while place < 1_400:
                    frame = await client.hear()
                    if frame["op"] == "error":
                        assert frame["code"] == "bad_cursor"
                        ended[0] += 1
                        return
                    got = seqs(frame["items"])
                    assert got == list(range(place + 1, place + 1 + len(got)))
                    place += len(got)
                ended[1] += 1

        async def prune_on() -> None:
            until_ = 0
            for _ in range(40):
                until_ = min(until_ + chance.randrange(50), 1_300)
                await prune(there, until_)
                await there.produce(10)

        await asyncio.gather(prune_on(), *(follow() for _ in range(20)))
        assert sum(ended) == 20

    run(tmp_path, claim, ring_bytes=chance.choice((1, 100_000)))
