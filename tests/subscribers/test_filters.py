"""Filtered subscriptions: live, from the ring and the store they get the same; others pay nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from busway.domain import filter as filters
from busway.domain.filter import View, compile_filter
from busway.gateway.subscribers import groups

from tests.subscribers.kit import Server, Store, number, peer, seqs, serve, store, until

Claim = Callable[[Store, Server], Awaitable[None]]
THIRD = {"exact": {"data.third": True}}
RED = {"all": [{"exact": {"colour": "red"}}, {"prefix": {"subject": "s-"}}]}


def run(folder: Path, claim: Claim, ring_bytes: int = 1 << 20) -> None:
    async def scene() -> None:
        async with store(folder, ring_bytes) as there, serve(Server(there)) as server:
            await claim(there, server)

    asyncio.run(scene())


async def produce(there: Store, count: int, size: int = 10) -> None:
    """Store events with results: each third has `third`, each second is red, some have a subject."""
    events = []
    for n in range(count):
        data = json.dumps({"n": n, "third": n % 3 == 0, "pad": "x" * size}).encode()
        subject = f"s-{n}" if n % 4 else None
        attributes: dict[str, Any] = {"colour": "red" if n % 2 else "blue"}
        events.append(there.event(data=data, attributes=attributes, subject=subject))
    await there.complete(events)


async def expected(there: Store, filter_: dict[str, Any]) -> list[int]:
    """What a plain reading of the whole log says."""
    results = await there.reader.results(0, 100_000, 1 << 40)
    test = compile_filter(filter_)
    wanted = []
    for result in results:
        event = await there.reader.event(result.event.seq)
        assert event is not None
        if test(View(event)):
            wanted.append(result.event.seq)
    return wanted


@pytest.mark.parametrize("ring_bytes", [1, 30_000, 1 << 20])
@pytest.mark.parametrize("filter_", [THIRD, RED], ids=["payload", "attributes"])
def test_live_and_caught_up_subscriptions_get_what_matches(
    tmp_path: Path, ring_bytes: int, filter_: dict[str, Any]
) -> None:
    async def claim(there: Store, server: Server) -> None:
        await produce(there, 100)
        async with peer(server) as live, peer(server) as late, peer(server) as plain:
            await live.ask(op="subscribe", id="s1", filter=filter_, after="earliest")
            await plain.ask(op="subscribe", id="s1", after="earliest")
            for _ in range(10):
                await produce(there, 50)
            wanted = await expected(there, filter_)
            assert seqs(await live.items(len(wanted))) == wanted
            await late.ask(op="subscribe", id="s1", filter=filter_, after="earliest")
            assert seqs(await late.items(len(wanted))) == wanted
            assert seqs(await plain.items(600)) == list(range(1, 601))

    run(tmp_path, claim, ring_bytes)


def test_one_result_of_a_filtered_subscription_is_resumed_from(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        got: list[int] = []
        cursor = "earliest"
        await produce(there, 60)
        wanted = await expected(there, THIRD)
        while len(got) < len(wanted):
            async with peer(server) as client:
                await client.ask(op="subscribe", id="s1", filter=THIRD, after=cursor)
                (item, *_) = await client.items(1)
                got += seqs([item])
                cursor = item["cursor"]
        assert got == wanted

    run(tmp_path, claim)


def test_the_cursor_passes_what_a_filter_keeps_out(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        never = {"exact": {"data.n": -1}}
        await produce(there, 2000)
        async with peer(server) as client:
            await client.ask(op="subscribe", id="s1", filter=never, after="earliest")
            frame = await client.hear()
            while number(frame["cursor"]) < 2000:
                assert frame["items"] == []
                frame = await client.hear()
            await produce(there, 5)
            while number(frame["cursor"]) < 2005:
                frame = await client.hear()
                assert frame["items"] == []

    run(tmp_path, claim, ring_bytes=1)


def test_events_too_big_for_one_turn_are_taken_in_several(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(groups, "FILTER_BYTES", 5000)

    async def claim(there: Store, server: Server) -> None:
        async with peer(server) as client, peer(server) as other:
            await client.ask(op="subscribe", id="s1", filter=THIRD)
            await other.ask(op="subscribe", id="s1", filter={"not": THIRD})
            await produce(there, 120, size=2000)
            wanted = await expected(there, THIRD)
            assert seqs(await client.items(len(wanted))) == wanted
            assert sorted(wanted + seqs(await other.items(120 - len(wanted)))) == list(range(1, 121))

    run(tmp_path, claim)


def test_a_commit_decodes_each_payload_once_for_all_filters_and_members(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded: list[bytes] = []

    def decode(data: bytes) -> Any:
        decoded.append(data)
        return msgspec.json.decode(data)

    async def claim(there: Store, server: Server) -> None:
        async with peer(server) as one, peer(server) as two, peer(server) as three, peer(server) as four:
            await one.ask(op="subscribe", id="s1", filter=THIRD)
            await two.ask(op="subscribe", id="s1", filter=THIRD)
            await three.ask(op="subscribe", id="s1", filter={"prefix": {"data.pad": "x"}})
            await four.ask(op="subscribe", id="s1", filter=RED)
            monkeypatch.setattr(filters, "_decode", decode)
            await produce(there, 30)
            for client, count in ((one, 10), (two, 10), (three, 30), (four, 15)):
                await client.items(count)
            assert len(decoded) == 30
            decoded.clear()
            for client in (one, two, three):
                assert (await client.ask(op="unsubscribe", id="s1"))["op"] == "unsubscribed"
            await produce(there, 30)
            await four.items(15)
            assert decoded == []

    run(tmp_path, claim)


def test_equal_filters_share_a_group_however_they_are_written(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        async with peer(server) as client:
            spellings = ['{"exact": {"a": "x", "b": "y"}}', ' {"exact":{"b":"y","a":"x"} } ']
            for name, text in enumerate(spellings):
                await client.socket.send(f'{{"op": "subscribe", "id": "{name}", "filter": {text}}}')
                await client.hear()
            assert len(there.hub._groups[None]) == 1

    run(tmp_path, claim)


def test_the_ring_keeps_events_only_while_a_filter_may_look_at_them(tmp_path: Path) -> None:
    async def kept(there: Store) -> list[bool]:
        await until(lambda: there.hub.latest.number == there.hub._ring.first + len(there.hub._ring) - 1)
        return [entry.event is not None for entry in there.hub._ring.after(0, 1000)]

    async def claim(there: Store, server: Server) -> None:
        async with peer(server) as client:
            await client.ask(op="subscribe", id="s1")
            await produce(there, 3)
            await client.items(3)
            assert await kept(there) == [False] * 3
            await client.ask(op="subscribe", id="s2", filter=THIRD, after="earliest")
            await client.items(1, "s2")
            await produce(there, 3)
            assert [len((await client.hear())["items"]) for _ in range(2)] == [3, 1]
            assert await kept(there) == [False] * 3 + [True] * 3
        await until(lambda: not there.hub._filtered)
        await produce(there, 1)
        assert (await kept(there))[-1] is False

    run(tmp_path, claim)


def test_the_one_line_form_takes_a_filter(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        await produce(there, 30)
        wanted = await expected(there, RED)
        async with peer(server, f"?filter={quote(json.dumps(RED))}&after=earliest") as client:
            assert (await client.hear())["id"] == "default"
            assert seqs(await client.items(len(wanted), "default")) == wanted

    run(tmp_path, claim)


def test_a_filter_and_the_other_fields_must_all_hold(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        fields = {
            "types": ["user.*"],
            "kinds": ["succeeded"],
            "handlers": ["invoice"],
            "correlationid": "mine",
        }
        async with peer(server) as client:
            await client.ask(op="subscribe", id="s1", filter={"exact": {"subject": "x"}}, **fields)
            for type_, correlationid, subject in (
                ("user.made", "mine", "y"), ("user.made", "other", "x"), ("order.made", "mine", "x"),
                ("user.made", "mine", "x"),
            ):  # fmt: skip
                await there.produce(1, type_, correlationid=correlationid, subject=subject)
            assert seqs(await client.items(1)) == [4]

    run(tmp_path, claim)
