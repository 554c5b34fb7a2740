"""Real sockets, a real store: what a client of `/v1/subscribe` sees."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from busway.gateway.access.scopes import Access
from busway.gateway.errors import Invalid, Unauthorized, Unavailable
from busway.gateway.subscribers import connection
from busway.gateway.turns import Line
from websockets.exceptions import ConnectionClosed

from tests.subscribers.kit import Peer, Server, Store, number, peer, seqs, serve, store, until

Claim = Callable[[Store, Server], Awaitable[None]]


def run(folder: Path, claim: Claim, **options: Any) -> None:
    ring_bytes = options.pop("ring_bytes", 1 << 20)

    async def scene() -> None:
        async with store(folder, ring_bytes) as there, serve(Server(there, **options)) as server:
            await claim(there, server)

    asyncio.run(scene())


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def close_code(client: Peer) -> tuple[int, str]:
    with contextlib.suppress(ConnectionClosed):
        while True:
            await client.hear()
    return client.socket.close_code or 0, client.socket.close_reason or ""


def test_results_come_live_after_subscribed(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        async with peer(server) as client:
            answer = await client.ask(op="subscribe", id="s1", types=["order.*"])
            assert (answer["op"], answer["id"], answer["recovered"]) == ("subscribed", "s1", True)
            await there.produce(3)
            items = await client.items(3)
            assert seqs(items) == [1, 2, 3]
            assert items[0]["data"] == 1
            assert items[0]["completes"] == {"succeeded": 1}

    run(tmp_path, claim)


def test_several_subscriptions_on_one_connection_are_each_exact(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        await there.produce(5, "order.created")
        await there.produce(5, "user.created", correlationid="u")
        async with peer(server) as client:
            await client.say(op="subscribe", id="all", after="earliest")
            await client.say(op="subscribe", id="orders", types=["order.**"], after="earliest")
            await client.say(op="subscribe", id="u", correlationid="u")
            await client.say(op="subscribe", id="none", handlers=["other"], after="earliest")
            await client.say(op="subscribe", id="partials", kinds=["partial"])
            await there.produce(300, "order.created")
            await there.produce(5, "user.created", correlationid="u")
            got: dict[str, list[int]] = {name: [] for name in ("all", "orders", "u", "none", "partials")}
            while sum(map(len, got.values())) < 315 + 305 + 5:
                frame = await client.hear()
                if frame["op"] == "results":
                    got[frame["id"]] += seqs(frame["items"])
        assert got["all"] == list(range(1, 316))
        assert got["orders"] == [*range(1, 6), *range(11, 311)]
        assert got["u"] == list(range(311, 316))
        assert got["none"] == got["partials"] == []

    run(tmp_path, claim)


def test_resuming_with_a_cursor_has_no_gap_and_no_repeat(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        got: list[int] = []
        cursor = "earliest"
        producing = asyncio.create_task(_keep_producing(there, 40, 25))
        while len(got) < 1000:
            async with peer(server) as client:
                answer = await client.ask(op="subscribe", id="s1", after=cursor)
                assert answer["recovered"]
                items = await client.items(1)
            got += seqs(items)
            cursor = items[-1]["cursor"]
        await producing
        assert got == list(range(1, 1001))

    run(tmp_path, claim, ring_bytes=50_000)


async def _keep_producing(there: Store, batches: int, size: int) -> None:
    for _ in range(batches):
        await there.produce(size)


@pytest.mark.parametrize("ring_bytes", [1, 1 << 20], ids=["from the store", "from the ring"])
def test_a_place_of_a_cursor_that_is_not_there_is_said(tmp_path: Path, ring_bytes: int) -> None:
    async def claim(there: Store, server: Server) -> None:
        await there.produce(3)
        async with peer(server) as client:
            await client.say(op="subscribe", id="s1", after="earliest")
            await client.hear()
            good = (await client.items(3))[1]["cursor"]
            epoch, _, digest = good.split("-")
            for bad in (f"{'0' * 16}-2-{digest}", f"{epoch}-2-00000000", f"{epoch}-9-{digest}"):
                answer = await client.ask(op="subscribe", id=bad, after=bad)
                assert not answer["recovered"]
                assert number(answer["cursor"]) == 3
                assert number(answer["oldest"]) == 0
            answer = await client.ask(op="subscribe", id="good", after=good)
            assert answer["recovered"]
            assert seqs(await client.items(1, "good")) == [3]

    run(tmp_path, claim, ring_bytes=ring_bytes)


@pytest.mark.long
def test_a_slow_reader_gets_everything_in_order_and_costs_no_memory(tmp_path: Path) -> None:
    size, count = 20_000, 3000
    data = json.dumps("x" * size).encode()

    async def claim(there: Store, server: Server) -> None:
        with socket.socket() as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.connect(("127.0.0.1", server.port))
            async with peer(server, sock=raw, ping_interval=None, max_queue=1) as slow, peer(server) as fast:
                await slow.ask(op="subscribe", id="s1")
                await fast.ask(op="subscribe", id="s1")
                await there.produce(50, data=data)
                await fast.items(50)
                before = resident()
                for _ in range(count // 50 - 1):
                    await there.produce(50, data=data)
                    await fast.items(50)
                grown = resident() - before
                assert there.hub.status()["lagging"] == 1
                assert grown < size * count / 2
                assert seqs(await slow.items(count)) == list(range(1, count + 1))

    run(tmp_path, claim)


def test_a_reader_without_progress_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "CLOSE_TIMEOUT", 0.2)
    data = json.dumps("x" * 500_000).encode()

    async def claim(there: Store, server: Server) -> None:
        there.hub.stall_timeout = 0.5
        with socket.socket() as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            raw.connect(("127.0.0.1", server.port))
            async with peer(server, sock=raw, ping_interval=None, max_queue=1) as slow:
                await slow.ask(op="subscribe", id="s1")
                for _ in range(4):
                    await there.produce(10, data=data)
                await until(lambda: server.connections == 0)
                assert there.hub.status()["connections"] == 0
                with pytest.raises(ConnectionClosed):
                    await slow.items(1000)

    run(tmp_path, claim)


def test_the_cursor_moves_past_results_that_do_not_match(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        async with peer(server) as client:
            await client.ask(op="subscribe", id="s1", types=["never"])
            await there.produce(7)
            frame = await client.hear()
            assert (frame["op"], frame["items"], number(frame["cursor"])) == ("results", [], 7)
            await there.produce(1, "never")
            assert seqs(await client.items(1)) == [8]

    run(tmp_path, claim)


def deep(levels: int) -> str:
    return '{"not":' * (levels - 1) + '{"exact":{"id":"x"}}' + "}" * (levels - 1)


def wide(members: int) -> str:
    return '{"any":[' + ",".join(["{}"] * members) + "]}"


BAD_FRAMES: list[tuple[str | bytes, str, str]] = [
    ("", "bad_frame", "JSON"),
    ("[]", "bad_frame", "object"),
    ("null", "bad_frame", "object"),
    ('{"op": "subscribe", "id": "a"', "bad_frame", "JSON"),
    ('{"op": NaN}', "bad_frame", "JSON"),
    ("[" * 200 + "]" * 200, "bad_frame", "deeper"),
    ('{"op": "shout"}', "bad_frame", "op"),
    ('{"op": ["ping"]}', "bad_frame", "op"),
    ("{}", "bad_frame", "op"),
    ('{"op": "ping", "loud": true}', "bad_frame", "loud"),
    ('{"op": "subscribe"}', "bad_subscription", "id"),
    ('{"op": "subscribe", "id": ""}', "bad_subscription", "id"),
    ('{"op": "subscribe", "id": 7}', "bad_subscription", "id"),
    ('{"op": "subscribe", "id": "x", "colour": 1}', "bad_subscription", "colour"),
    ('{"op": "subscribe", "id": "x", "types": "a.*"}', "bad_pattern", "types"),
    ('{"op": "subscribe", "id": "x", "types": [1]}', "bad_pattern", "types"),
    ('{"op": "subscribe", "id": "x", "types": ["a..b"]}', "bad_pattern", "a..b"),
    ('{"op": "subscribe", "id": "x", "types": ["**.b"]}', "bad_pattern", "**"),
    ('{"op": "subscribe", "id": "x", "kinds": ["partly"]}', "bad_subscription", "partly"),
    ('{"op": "subscribe", "id": "x", "handlers": ["No!"]}', "bad_subscription", "No!"),
    ('{"op": "subscribe", "id": "x", "correlationid": 1}', "bad_subscription", "correlationid"),
    ('{"op": "subscribe", "id": "x", "after": "yesterday"}', "bad_cursor", "cursor"),
    ('{"op": "subscribe", "id": "x", "after": 5}', "bad_cursor", "cursor"),
    ('{"op": "subscribe", "id": "x", "filter": {}}', "bad_filter", "empty"),
    ('{"op": "subscribe", "id": "x", "filter": []}', "bad_filter", "object"),
    ('{"op": "subscribe", "id": "x", "filter": "exact"}', "bad_filter", "object"),
    ('{"op": "subscribe", "id": "x", "filter": {"exact": {"subject": 1}}}', "bad_filter", "subject"),
    ('{"op": "subscribe", "id": "x", "filter": {"sql": "true"}}', "bad_filter", "sql"),
    (f'{{"op": "subscribe", "id": "x", "filter": {deep(17)}}}', "bad_filter", "deeper than 16"),
    (f'{{"op": "subscribe", "id": "x", "filter": {deep(1000)}}}', "bad_frame", "deeper than 100"),
    (f'{{"op": "subscribe", "id": "x", "filter": {wide(10_000)}}}', "bad_filter", "256"),
    (
        f'{{"op": "subscribe", "id": "x", "filter": {{"exact": {{"id": "{"x" * 50_000}"}}}}}}',
        "bad_filter",
        "16384",
    ),
    ('{"op": "subscribe", "id": "x", "durable": ""}', "bad_subscription", "durable"),
    ('{"op": "subscribe", "id": "x", "durable": 5}', "bad_subscription", "durable"),
    ('{"op": "subscribe", "id": "x", "durable": "a\\nb"}', "bad_subscription", "control"),
    (f'{{"op": "subscribe", "id": "x", "durable": "{"x" * 256}"}}', "bad_subscription", "255"),
    ('{"op": "subscribe", "id": "x", "shadow": "yes"}', "bad_subscription", "shadow"),
    ('{"op": "ack", "id": "x", "cursor": "y"}', "unknown_subscription", "'x'"),
    ('{"op": "ack", "cursor": "y"}', "bad_subscription", "id"),
    ('{"op": "ack", "id": "x", "upto": "y"}', "bad_frame", "upto"),
    ('{"op": "unsubscribe", "id": "nobody"}', "unknown_subscription", "nobody"),
    ('{"op": "publish", "ref": "r"}', "bad_event", "event"),
    ('{"op": "publish", "ref": ["r"], "event": {}}', "bad_frame", "ref"),
    (b"\x00\x01", "bad_frame", "binary"),
]


def test_a_bad_frame_gets_an_error_and_closes_nothing(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        async with peer(server) as client:
            for frame, code, word in BAD_FRAMES:
                await client.socket.send(frame)
                answer = await client.hear()
                assert (answer["op"], answer["code"]) == ("error", code), frame
                assert word in answer["detail"], frame
                assert answer.keys() == {"op", "id", "ref", "code", "detail"}
                assert await client.ask(op="ping") == {"op": "pong"}

    run(tmp_path, claim)


def test_an_id_in_use_is_an_error_and_free_after_unsubscribing(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        async with peer(server) as client:
            await client.ask(op="subscribe", id="s1")
            assert (await client.ask(op="subscribe", id="s1"))["code"] == "bad_subscription"
            assert await client.ask(op="unsubscribe", id="s1") == {"op": "unsubscribed", "id": "s1"}
            await there.produce(1)
            assert (await client.ask(op="subscribe", id="s1", after="earliest"))["op"] == "subscribed"
            assert seqs(await client.items(1)) == [1]

    run(tmp_path, claim)


def test_a_connection_has_at_most_a_thousand_subscriptions(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        async with peer(server) as client:
            for name in range(1000):
                assert (await client.ask(op="subscribe", id=str(name)))["op"] == "subscribed"
            assert (await client.ask(op="subscribe", id="one more"))["code"] == "too_many"
            await there.produce(1)
            assert {(await client.hear())["id"] for _ in range(1000)} == {str(n) for n in range(1000)}

    run(tmp_path, claim)


def test_an_event_is_published_as_it_was_sent(tmp_path: Path) -> None:
    taken: list[bytes] = []

    async def publish(event: bytes, access: Access, line: Line) -> dict[str, Any]:
        taken.append(event)
        if len(taken) == 2:
            raise Invalid("'type' is missing")
        if len(taken) == 3:
            raise Unavailable("starting")
        return {"seq": 9, "id": "i", "source": "/", "type": "a", "runs": 0, "duplicate": False}

    async def claim(there: Store, server: Server) -> None:
        async with peer(server) as client:
            await client.socket.send('{"event": {"type":  "a", "data": 1.50}, "ref": "r1", "op": "publish"}')
            answer = await client.hear()
            assert answer == {
                "op": "published", "ref": "r1", "seq": 9, "id": "i", "source": "/", "type": "a",
                "runs": 0, "duplicate": False,
            }  # fmt: skip
            assert taken == [b'{"type":  "a", "data": 1.50}']
            for code in ("bad_event", "unavailable"):
                answer = await client.ask(op="publish", ref=5, event={})
                assert (answer["op"], answer["ref"], answer["code"]) == ("error", 5, code)

    run(tmp_path, claim, publish=publish)


def test_scopes_are_checked(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        server.access = Access(1, frozenset({"publish"}))
        async with peer(server) as client:
            assert (await client.ask(op="subscribe", id="s1"))["code"] == "not_allowed"
        server.access = Access(1, frozenset({"subscribe"}))
        async with peer(server) as client:
            assert (await client.ask(op="publish", event={}, ref="r"))["code"] == "not_allowed"

    run(tmp_path, claim)


def test_the_one_line_form_opens_default(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        await there.produce(2, "order.created")
        await there.produce(1, "user.created")
        await there.produce(1, "other")
        query = "?types=order.*&types=user.*&kinds=succeeded&handlers=invoice&after=earliest"
        async with peer(server, query) as client:
            answer = await client.hear()
            assert (answer["op"], answer["id"]) == ("subscribed", "default")
            assert seqs(await client.items(3, "default")) == [1, 2, 3]

    run(tmp_path, claim)


BAD_QUERIES = [
    ("?colour=red", "colour"),
    ("?filter=%7B", "URL-encoded JSON"),
    ("?filter=%7B%7D&filter=%7B%7D", "twice"),
    ("?ticket=abc&ticket=def", "ticket"),
    ("?key=secret", "Authorization"),
    ("?access_token=secret", "Authorization"),
    ("?after=latest&after=earliest", "twice"),
    ("?types=%ff", "UTF-8"),
    (f"?{'x' * 500}=1", "types"),
]


def test_a_query_string_that_is_not_taken_closes_with_4400(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        for query, word in BAD_QUERIES:
            async with peer(server, query) as client:
                code, reason = await close_code(client)
                assert code == 4400, query
                assert word in reason, query
                assert "secret" not in reason

    run(tmp_path, claim)


def test_a_bad_value_in_the_query_string_is_an_error_frame(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        for query, code in (("?types=a..b", "bad_pattern"), ("?filter=%7B%7D", "bad_filter")):
            async with peer(server, query) as client:
                answer = await client.hear()
                assert (answer["code"], answer["id"]) == (code, "default")
                assert await client.ask(op="ping") == {"op": "pong"}

    run(tmp_path, claim)


def test_close_codes(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        server.access = Unauthorized("send a key")
        async with peer(server) as client:
            assert (await close_code(client))[0] == 4401
        server.access = Access(7, frozenset({"subscribe"}))
        async with peer(server, subprotocols=["busway.v1"]) as client, peer(server) as other:
            assert client.socket.subprotocol == "busway.v1"
            await client.ask(op="ping")
            await other.ask(op="subscribe", id="s1")
            there.hub.revoke(8)
            assert await client.ask(op="ping") == {"op": "pong"}
            there.hub.revoke(7)
            assert (await close_code(client))[0] == (await close_code(other))[0] == 4401
        there.hub.admits = lambda access: access != server.access  # revoked while the socket was opened
        async with peer(server) as client:
            assert (await close_code(client))[0] == 4401
        there.hub.admits = lambda _: True
        async with peer(server) as client:
            await client.socket.send("x" * 70_000)
            assert (await close_code(client))[0] == 1009
        await until(lambda: server.connections == 0)
        assert there.hub.status()["connections"] == 0

    run(tmp_path, claim)


def test_closing_delivers_everything_first(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        async with peer(server, "?after=latest") as live, peer(server) as lagging:
            assert (await live.hear())["op"] == "subscribed"
            await there.produce(400)
            await lagging.ask(op="subscribe", id="default", after="earliest")
            closing = asyncio.create_task(there.hub.close(1012, "restart"))
            for client in (live, lagging):
                assert seqs(await client.items(400, "default")) == list(range(1, 401))
                assert await close_code(client) == (1012, "restart")
            await closing
        async with peer(server) as late:
            assert (await close_code(late))[0] == 1012

    run(tmp_path, claim, ring_bytes=1)


def test_disconnections_leave_nothing_behind(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        await there.produce(500)
        for round_ in range(30):
            async with peer(server) as client:
                await client.say(op="subscribe", id="s1", after="earliest")
                await client.say(op="subscribe", id="s2", types=["order.*"])
                for _ in range(round_ % 4):
                    await client.hear()
                await there.produce(1)
                client.socket.transport.abort()
        await until(lambda: server.connections == 0)
        await until(lambda: there.hub.status()["subscriptions"] == 0)
        status = there.hub.status()
        assert (status["connections"], status["live"]) == (0, 0)
        await until(lambda: len(asyncio.all_tasks()) < 15)

    run(tmp_path, claim, ring_bytes=50_000)


def test_a_subscription_that_begins_when_the_gateway_ends_is_given_nothing(tmp_path: Path) -> None:
    """Its `subscribed` goes out no more, and results without that are lost on clients that wait for it."""

    async def claim(there: Store, server: Server) -> None:
        await there.produce(3)
        async with peer(server) as client:
            await until(lambda: there.hub.sinks)
            [sink] = there.hub.sinks
            opening = sink._session.subscribe({"id": "s1", "after": "earliest"})
            start = await there.hub.locate(opening.after)
            sink.close(1012, "restart", flush=True)
            sink.begin(opening.subscription, start)
            with pytest.raises(ConnectionClosed):
                await client.hear()
            assert await close_code(client) == (1012, "restart")

    run(tmp_path, claim)
