"""Many frames at once, messages under way, many comparisons: bounded in memory, and done in turns."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from busway.gateway.budget import Budget
from busway.gateway.door import flow, websocket
from busway.gateway.subscribers import hub as hubs
from busway.gateway.subscribers import selection, session

from tests.attacks import GOOD, handshake
from tests.subscribers.kit import Server, Store, peer, seqs, serve, store, until

Claim = Callable[[Store, Server], Awaitable[None]]


def run(folder: Path, claim: Claim, **options: Any) -> None:
    async def main() -> None:
        async with store(folder) as there, serve(Server(there, **options)) as server:
            await claim(there, server)

    asyncio.run(main())


def sizes_of_turns(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list that gets how many bytes each turn parses."""
    sizes: list[int] = []
    feed = websocket.WebSocket._feed

    def noted(self: websocket.WebSocket, data: bytes) -> int:
        sizes.append(len(data))
        return feed(self, data)

    monkeypatch.setattr(websocket.WebSocket, "_feed", noted)
    return sizes


def test_many_small_frames_are_read_in_several_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = sizes_of_turns(monkeypatch)

    async def claim(_: Store, server: Server) -> None:
        async with peer(server) as client:
            for _ in range(20_000):
                await client.socket.send('{"op":"ping"}')
            await client.say(op="subscribe", id="last")
            answers = [await client.hear() for _ in range(20_001)]
            assert [answer["op"] for answer in answers] == ["pong"] * 20_000 + ["subscribed"]

    run(tmp_path, claim)
    assert max(sizes) <= websocket.SMALL_SLICE
    assert sum(sizes) > 20_000 * 19


def test_a_part_of_a_frame_does_not_make_the_next_turn_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = sizes_of_turns(monkeypatch)

    async def claim(_: Store, server: Server) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(handshake(*GOOD))
        await reader.readuntil(b"\r\n\r\n")
        ping = b"\x89\x80\0\0\0\0"
        writer.write(ping[:3])
        await until(lambda: sizes == [3])
        writer.write(ping[3:] + ping * 10_000)
        await reader.readexactly(2 * 1_000)
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    run(tmp_path, claim)
    assert max(sizes) <= websocket.SMALL_SLICE


def test_a_socket_rests_after_many_frames_that_say_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow, "REST", 3600.0)

    async def claim(_: Store, server: Server) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(handshake(*GOOD))
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"\x89\x80\0\0\0\0" * 5_000)
        await reader.readexactly(2 * (websocket.MOST_USELESS + 1))
        async with peer(server) as client:
            await client.say(op="ping")
            assert (await client.hear())["op"] == "pong"
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readexactly(2 * 4_900), 0.5)
        writer.transport.abort()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    run(tmp_path, claim)


def test_messages_under_way_are_bounded_together(tmp_path: Path) -> None:
    async def claim(_: Store, server: Server) -> None:
        server.bodies = budget = Budget(100_000, "bodies")  # type: ignore[attr-defined]
        async with peer(server) as first:
            done = asyncio.Event()

            async def parts() -> Any:
                for _ in range(3):
                    yield "x" * 20_000
                await done.wait()
                yield ""

            sending = asyncio.create_task(first.socket.send(parts()))
            await until(lambda: budget.used >= 60_000)
            async with peer(server) as second:
                stuck = asyncio.create_task(second.socket.send(_slowly()))
                await asyncio.wait_for(second.socket.wait_closed(), 60)
                assert second.socket.close_code == 1013
                stuck.cancel()
            await until(lambda: budget.used < 70_000)
            done.set()
            await sending
            assert (await first.hear())["code"] == "bad_frame"
            await until(lambda: budget.used == 0)

    run(tmp_path, claim)


async def _slowly() -> Any:
    for _ in range(3):
        yield "x" * 20_000
    await asyncio.sleep(120)
    yield ""


def _filter(count: int, number: int = 0) -> dict[str, Any]:
    return {"any": [{"exact": {"subject": f"{number}-{n}"}} for n in range(count)]}


def test_the_selections_of_one_connection_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "MAX_BYTES", 800_000)

    async def claim(_: Store, server: Server) -> None:
        async with peer(server) as client:
            codes = [
                (await client.ask(op="subscribe", id=str(n), filter=_filter(200, n))).get("code")
                for n in range(5)
            ]
            assert codes == [None, None, "too_many", "too_many", "too_many"]
            await client.ask(op="unsubscribe", id="0")
            assert (await client.ask(op="subscribe", id="9", filter=_filter(200)))["op"] == "subscribed"

    run(tmp_path, claim)


def test_the_selections_of_all_connections_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hubs, "SELECTIONS_BYTES", 800_000)

    async def claim(there: Store, server: Server) -> None:
        async with peer(server) as one, peer(server) as two:
            for n in range(2):
                answer = await one.ask(op="subscribe", id=str(n), filter=_filter(200, n))
                assert answer["op"] == "subscribed"
            assert (await two.ask(op="subscribe", id="a", filter=_filter(200, 2)))["code"] == "unavailable"
            # Those that are equal share what is compiled.
            assert (await two.ask(op="subscribe", id="b", filter=_filter(200, 1)))["op"] == "subscribed"
            await one.ask(op="unsubscribe", id="0")
            await until(lambda: there.hub._selections_bytes < 500_000)
            assert (await two.ask(op="subscribe", id="c", filter=_filter(200, 2)))["op"] == "subscribed"
        await until(lambda: not there.hub._selections)
        assert there.hub._selections_bytes == 0

    run(tmp_path, claim)


@pytest.mark.parametrize("filtered", [False, True])
def test_what_takes_many_comparisons_is_read_from_the_log_in_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, filtered: bool
) -> None:
    monkeypatch.setattr(hubs, "SHOW", 60)
    monkeypatch.setattr(hubs, "SHORT", 10)
    monkeypatch.setattr(selection, "COMPARISONS", 50)

    async def claim(there: Store, server: Server) -> None:
        async with peer(server) as client:
            for n in range(10):
                more = {"filter": {"any": [*_filter(19, n)["any"], {"prefix": {"source": "/"}}]}}
                wanted = {"types": ["order.*", f"other.{n}"], **(more if filtered else {})}
                assert (await client.ask(op="subscribe", id=str(n), **wanted))["op"] == "subscribed"
            turns = there.hub._turns.given
            await there.produce(30)
            found: dict[str, list[int]] = {str(n): [] for n in range(10)}
            while any(len(each) < 30 for each in found.values()):
                frame = await client.hear()
                found[frame["id"]] += seqs(frame["items"])
            assert set(map(tuple, found.values())) == {tuple(sorted(found["0"]))}
            assert len(found["0"]) == 30
            assert there.hub._turns.given > turns

    run(tmp_path, claim)


def test_a_selection_is_forgotten_with_its_last_subscription(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        before = len(selection._known)
        async with peer(server) as client:
            for n in range(50):
                types = [f"{'x' * 250}{n}"]
                await client.ask(op="subscribe", id="s", types=types, filter=_filter(3, n))
                await client.ask(op="unsubscribe", id="s")
        await until(lambda: not there.hub._selections)
        assert len(selection._known) <= before + 1

    run(tmp_path, claim)
