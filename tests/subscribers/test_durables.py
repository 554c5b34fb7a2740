"""Durable subscriptions: names that keep their place, over connections, takeovers and restarts."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from busway.domain import cursor
from busway.gateway.access.scopes import Access
from busway.gateway.errors import Conflict
from busway.gateway.subscribers import durables

from tests.subscribers.kit import Peer, Server, Store, number, peer, seqs, serve, store, until

Claim = Callable[[Store, Server], Awaitable[None]]
SEED = int(os.environ.get("BUSWAY_TEST_SEED", "20261123"))


def run(folder: Path, claim: Claim, ring_bytes: int = 1 << 20) -> None:
    async def scene() -> None:
        async with store(folder, ring_bytes) as there, serve(Server(there)) as server:
            await claim(there, server)

    asyncio.run(scene())


async def follow(client: Peer, name: str = "me", **fields: Any) -> dict[str, Any]:
    answer = await client.ask(op="subscribe", id="s1", durable=name, **fields)
    assert answer["op"] == "subscribed", answer
    return answer


async def kept(client: Peer) -> None:
    """Wait until what was acknowledged is kept."""
    await client.say(op="ping")
    while (await client.hear())["op"] != "pong":
        pass


async def acknowledge(client: Peer, place: str) -> None:
    await client.say(op="ack", id="s1", cursor=place)
    await kept(client)


async def complaint(client: Peer, place: Any, id_: str = "s1") -> dict[str, Any]:
    """Acknowledge, and return the error that comes of it."""
    await client.say(op="ack", id=id_, cursor=place)
    await client.say(op="ping")
    frame = await client.hear()
    assert (await client.hear())["op"] == "pong"
    assert (frame["op"], frame["id"]) == ("error", id_), frame
    return frame


async def place_of(there: Store, name: str = "me") -> int:
    record = await there.reader.durable(name)
    assert record is not None
    return record.position.number


@pytest.mark.parametrize("ring_bytes", [1, 1 << 20], ids=["store", "ring"])
def test_a_name_resumes_behind_what_was_acknowledged(tmp_path: Path, ring_bytes: int) -> None:
    async def claim(there: Store, server: Server) -> None:
        await there.produce(3)
        async with peer(server) as client:
            assert number((await follow(client, after="earliest"))["cursor"]) == 0
            items = await client.items(3)
            await acknowledge(client, items[1]["cursor"])
        await there.produce(2)
        async with peer(server) as client:
            answer = await follow(client, after="earliest")
            assert (number(answer["cursor"]), answer["recovered"]) == (2, True)
            assert seqs(await client.items(3)) == [3, 4, 5]

    run(tmp_path, claim, ring_bytes)


def test_after_decides_only_where_the_first_connection_begins(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        await there.produce(5)
        for name, after, first in (("now", None, 5), ("latest", "latest", 5), ("first", "earliest", 0)):
            async with peer(server) as client:
                assert number((await follow(client, name, after=after))["cursor"]) == first
        await there.produce(5)
        for name, first in (("now", 5), ("latest", 5), ("first", 0)):
            for after in (None, "earliest", "latest"):
                async with peer(server) as client:
                    answer = await follow(client, name, after=after)
                    assert (number(answer["cursor"]), answer["recovered"]) == (first, True)

    run(tmp_path, claim)


def test_a_first_connection_may_begin_at_a_cursor(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        await there.produce(5)
        second = (await there.reader.position(2)) or cursor.START
        async with peer(server) as client:
            await follow(client, after=cursor.encode(there.hub.epoch, second))
            assert seqs(await client.items(3)) == [3, 4, 5]
        async with peer(server) as client:
            answer = await follow(client, "other", after=f"{'0' * 16}-2-00000000")
            assert (answer["recovered"], number(answer["cursor"])) == (False, 5)
        assert await place_of(there, "other") == 5

    run(tmp_path, claim)


def test_acknowledging_never_goes_back(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        await there.produce(3)
        async with peer(server) as client:
            begin = (await follow(client, after="earliest"))["cursor"]
            items = await client.items(3)
            await acknowledge(client, items[1]["cursor"])
            await acknowledge(client, items[1]["cursor"])  # said again: nothing to complain about
            for earlier in (begin, items[0]["cursor"]):
                assert (await complaint(client, earlier))["code"] == "bad_cursor"
            assert await place_of(there) == 2
            await acknowledge(client, items[2]["cursor"])
            assert await place_of(there) == 3

    run(tmp_path, claim)


@pytest.mark.parametrize("ring_bytes", [1, 1 << 20], ids=["store", "ring"])
def test_a_cursor_that_was_not_sent_is_not_acknowledged(tmp_path: Path, ring_bytes: int) -> None:
    async def claim(there: Store, server: Server) -> None:
        await there.produce(5)
        async with peer(server) as client:
            await follow(client, after="earliest")
            items = await client.items(5)
            epoch, _, digest = items[4]["cursor"].split("-")
            forged = [
                f"{epoch}-4-{digest}",
                f"{epoch}-6-{digest}",
                f"{'0' * 16}-5-{digest}",
                "earliest",
                5,
                None,
            ]
            for place in forged:
                assert (await complaint(client, place))["code"] == "bad_cursor", place
            assert await place_of(there) == 0
            await acknowledge(client, items[3]["cursor"])
            assert await place_of(there) == 4

    run(tmp_path, claim, ring_bytes)


def test_only_an_open_durable_subscription_is_acknowledged(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        await there.produce(1)
        async with peer(server) as client:
            await client.ask(op="subscribe", id="plain", after="earliest")
            place = (await client.items(1, "plain"))[0]["cursor"]
            assert (await complaint(client, place, "plain"))["code"] == "bad_subscription"
            assert (await complaint(client, place, "nobody"))["code"] == "unknown_subscription"
            await follow(client)
            await client.ask(op="unsubscribe", id="s1")
            assert (await complaint(client, place))["code"] == "unknown_subscription"

    run(tmp_path, claim)


def test_the_newest_connection_takes_a_name_over(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        await there.produce(3)
        async with peer(server) as old, peer(server) as new:
            await follow(old, after="earliest")
            items = await old.items(3)
            await old.say(op="ack", id="s1", cursor=items[0]["cursor"])  # not waited for
            await old.ask(op="unsubscribe", id="other")
            await follow(new)
            assert seqs(await new.items(2)) == [2, 3]
            ended = await old.hear()
            assert (ended["op"], ended["id"], ended["code"]) == ("error", "s1", "bad_subscription")
            assert "took" in ended["detail"]
            late = await complaint(old, items[2]["cursor"])
            assert late["code"] == "unknown_subscription"
            await there.produce(1)
            assert seqs(await new.items(1)) == [4]
            assert await old.ask(op="ping") == {"op": "pong"}
        assert await place_of(there) == 1

    run(tmp_path, claim)


def test_what_the_one_before_acknowledged_wrongly_is_not_told_to_the_next(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        await there.produce(3)
        async with peer(server) as old, peer(server) as new:
            await follow(old, after="earliest")
            epoch, _, digest = (await old.items(3))[2]["cursor"].split("-")
            await old.say(op="ack", id="s1", cursor=f"{epoch}-2-{digest}")  # forged
            await new.say(op="subscribe", id="s1", durable="me")
            await kept(old)
            answer = await new.hear()
            assert (answer["op"], number(answer["cursor"])) == ("subscribed", 0)
            assert seqs(await new.items(3)) == [1, 2, 3]
            assert await new.ask(op="ping") == {"op": "pong"}

    run(tmp_path, claim, ring_bytes=1)


def test_one_connection_uses_a_name_once_at_a_time(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        async with peer(server) as client:
            await follow(client)
            answer = await client.ask(op="subscribe", id="s2", durable="me")
            assert (answer["code"], answer["id"]) == ("bad_subscription", "s2")
            await client.ask(op="unsubscribe", id="s1")
            assert (await client.ask(op="subscribe", id="s2", durable="me"))["op"] == "subscribed"

    run(tmp_path, claim)


def test_any_key_that_may_subscribe_goes_on_where_another_was(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        await there.produce(2)
        for key in (1, 2):
            server.access = Access(key, frozenset({"subscribe"}))
            async with peer(server) as client:
                answer = await follow(client, after="earliest")
                assert number(answer["cursor"]) == key - 1
                await acknowledge(client, (await client.items(1))[0]["cursor"])

    run(tmp_path, claim)


def test_a_place_that_was_pruned_is_said_with_the_oldest(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        await there.produce(5)
        async with peer(server) as client:
            await follow(client, after="earliest")
            await acknowledge(client, (await client.items(5))[1]["cursor"])
        third = await there.reader.position(3)
        assert third is not None
        prune(tmp_path / "busway.db", third)
        there.hub._floor_at = float("-inf")
        async with peer(server) as client:
            answer = await follow(client)
            assert not answer["recovered"]
            assert (number(answer["cursor"]), number(answer["oldest"])) == (5, 3)
            await there.produce(1)
            await acknowledge(client, (await client.items(1))[0]["cursor"])
        async with peer(server) as client:
            assert (await follow(client))["recovered"]

    run(tmp_path, claim, ring_bytes=1)


def prune(path: Path, floor: cursor.Position) -> None:
    import sqlite3

    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM results WHERE number <= ?", (floor.number,))
        connection.execute("UPDATE head SET floor = ?, floor_digest = ?", (floor.number, floor.digest))


def test_there_are_at_most_so_many_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durables, "MAX_DURABLES", 3)

    async def claim(there: Store, server: Server) -> None:
        async with peer(server) as client:
            for name in "abc":
                assert (await client.ask(op="subscribe", id=name, durable=name))["op"] == "subscribed"
            answer = await client.ask(op="subscribe", id="d", durable="d")
            assert (answer["code"], answer["id"]) == ("too_many", "d")
            await client.ask(op="unsubscribe", id="a")
            assert (await client.ask(op="subscribe", id="a", durable="a"))["op"] == "subscribed"
            await client.ask(op="unsubscribe", id="b")
            assert await there.hub.durables.delete("b")
            assert (await client.ask(op="subscribe", id="d", durable="d"))["op"] == "subscribed"

    run(tmp_path, claim)


def test_a_name_is_deleted_unless_it_is_in_use_and_begins_anew(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        names = there.hub.durables
        assert not await names.delete("me")
        await there.produce(2)
        async with peer(server) as client:
            await follow(client, after="earliest")
            place = (await client.items(2))[1]["cursor"]
            with pytest.raises(Conflict):
                await names.delete("me")
            await client.say(op="ack", id="s1", cursor=place)
            await client.ask(op="unsubscribe", id="s1")
            await names.settled()
            deleting = asyncio.create_task(names.delete("me"))
            while not (
                "me" in names._names or deleting.done()
            ):  # it is under way when the name is claimed again
                await asyncio.sleep(0)
            assert number((await follow(client, after="earliest"))["cursor"]) == 0
            assert await deleting
            assert await place_of(there) == 0

    run(tmp_path, claim)


@pytest.mark.long
def test_acknowledgements_of_many_names_are_one_operation_a_commit(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        names = [f"n{n}" for n in range(200)]
        await there.produce(50)
        async with peer(server) as client:
            for name in names:
                await client.say(op="subscribe", id=name, durable=name, after="earliest")
            places: dict[str, list[str]] = {name: [] for name in names}
            while any(len(found) < 50 for found in places.values()):
                frame = await client.hear()
                if frame["op"] == "results":
                    places[frame["id"]] += [item["cursor"] for item in frame["items"]]
            sizes = there.commits.stats.sizes
            commits, operations = sum(sizes.counts), sizes.total
            for index in range(50):
                for name in names:
                    await client.say(op="ack", id=name, cursor=places[name][index])
            await kept(client)
            assert sizes.total - operations == sum(sizes.counts) - commits
        assert {record.position.number for record in await there.reader.durables("", 1000)} == {50}

    run(tmp_path, claim)


@pytest.mark.long
def test_a_committer_that_dies_leaves_no_doubt_about_an_acknowledgement(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        await there.produce(100)
        async with peer(server) as client:
            await follow(client, after="earliest")
            items = await client.items(100)
            kept_until = 0
            for index in range(0, 100, 10):
                pid = there.commits.pid
                if pid and index % 20:
                    os.kill(pid, signal.SIGKILL)
                frame = {"op": "error"}
                while frame["op"] == "error":  # not taken: done again, as the answer says
                    await client.say(op="ack", id="s1", cursor=items[index]["cursor"])
                    await client.say(op="ping")
                    frame = await client.hear()
                    if frame["op"] == "error":
                        assert frame["code"] == "unavailable", frame
                        assert (await client.hear())["op"] == "pong"
                assert await place_of(there) >= index + 1 > kept_until
                kept_until = index + 1

    run(tmp_path, claim)


def test_nothing_acknowledged_comes_again_and_nothing_else_is_left_out(tmp_path: Path) -> None:
    """Connections come, acknowledge here and there, and go in any way, while results pour in."""
    chance = random.Random(SEED)
    print("BUSWAY_TEST_SEED", SEED)

    async def session(client: Peer, taken: set[int]) -> None:
        """Take some frames, each exactly behind what was taken before, and acknowledge some of it."""
        expected = number((await follow(client, after="earliest"))["cursor"]) + 1
        last = 0
        for _ in range(chance.randint(1, 12)):
            if expected > 1200:
                break
            items = (await client.hear())["items"]
            assert seqs(items) == list(range(expected, expected + len(items)))
            taken.update(seqs(items))
            expected += len(items)
            chosen = [item for item in items if number(item["cursor"]) > last]
            if chosen and (expected > 1200 or chance.random() < 0.7):
                item = items[-1] if expected > 1200 else chance.choice(chosen)
                await client.say(op="ack", id="s1", cursor=item["cursor"])
                last = number(item["cursor"])
        if chance.random() < 0.5:
            await kept(client)

    async def claim(there: Store, server: Server) -> None:
        producing = asyncio.create_task(_keep_producing(there, 60, 20))
        taken: set[int] = set()
        acknowledged = 0
        while acknowledged < 1200:
            async with peer(server) as client:
                await session(client, taken)
                if chance.random() < 0.5:
                    client.socket.transport.abort()
            before, acknowledged = acknowledged, await place_of(there)
            assert acknowledged >= before
        await producing
        assert taken == set(range(1, 1201))

    run(tmp_path, claim, ring_bytes=60_000)


async def _keep_producing(there: Store, batches: int, size: int) -> None:
    for _ in range(batches):
        await there.produce(size)


def test_names_that_nobody_uses_take_no_memory(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        await there.produce(1)
        for n in range(20):
            async with peer(server, f"?durable=n{n}&after=earliest") as client:
                assert (await client.hear())["op"] == "subscribed"
                await client.say(
                    op="ack", id="default", cursor=(await client.items(1, "default"))[0]["cursor"]
                )
        await until(lambda: not there.hub.durables._names)

    run(tmp_path, claim)
