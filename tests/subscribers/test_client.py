"""`busway.Client` against real sockets: it reconnects by itself, and says what it cannot mend."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from busway.client.aio import BuswayClientError, Client, Gap, Item
from busway.gateway.access.scopes import OPEN
from busway.gateway.cli.following import Wanted, tail
from busway.gateway.errors import BuswayError, Unauthorized
from rich.console import Console
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection
from websockets.asyncio.server import serve as websocket_server

from tests.subscribers.kit import PATIENCE, Server, serve, store, until


async def take(stream: AsyncIterator[Item], count: int) -> list[Item]:
    async with asyncio.timeout(PATIENCE):
        return [await anext(stream) for _ in range(count)]


def http(server: Server) -> str:
    return f"http://127.0.0.1:{server.port}"


def test_items_have_their_fields_as_attributes(tmp_path: Path) -> None:
    async def claim() -> None:
        async with store(tmp_path) as there, serve(Server(there)) as server, Client(http(server)) as client:
            await there.produce(2, data=b'{"pages": 1}')
            async with aclosing(client.subscribe("order.*", after="earliest")) as stream:
                one, two = await take(stream, 2)
            assert (one.event.seq, one.event.type, one.handler, one.kind) == (
                1,
                "order.created",
                "invoice",
                "succeeded",
            )
            assert (one.data, one.completes, one.error) == ({"pages": 1}, {"succeeded": 1}, None)
            async with aclosing(client.subscribe(after=one.cursor)) as stream:
                assert await take(stream, 1) == [two]
            await until(lambda: server.connections == 0)

    asyncio.run(claim())


def test_a_broken_connection_is_made_again_without_gap_or_repeat(tmp_path: Path, unused_port: int) -> None:
    reconnects: list[str] = []

    async def claim() -> None:
        async with store(tmp_path) as there:
            server = Server(there)
            client = Client("http://127.0.0.1:1", on_reconnect=lambda why, pause: reconnects.append(why))
            got: list[int] = []
            stream: Any = None
            for round_ in range(4):
                async with serve(server, unused_port):
                    if stream is None:
                        client = Client(http(server), on_reconnect=lambda why, pause: reconnects.append(why))
                        stream = client.subscribe("order.*", after="earliest")
                    await there.produce(100)
                    got += [item.event.seq for item in await take(stream, 90 if round_ < 3 else 130)]
            await stream.aclose()
            await client.close()
            assert got == list(range(1, 401))
            assert len(reconnects) >= 3

    asyncio.run(claim())


def test_a_gap_is_raised_never_passed_over(tmp_path: Path) -> None:
    async def claim() -> None:
        async with store(tmp_path) as there, serve(Server(there)) as server, Client(http(server)) as client:
            await there.produce(2)
            with pytest.raises(Gap) as gap:
                await take(client.subscribe(after=f"{'0' * 16}-1-00000000"), 1)
            async with aclosing(client.subscribe(after=gap.value.oldest)) as stream:
                assert [item.event.seq for item in await take(stream, 2)] == [1, 2]

    asyncio.run(claim())


def test_refusals_are_raised_with_what_to_do(tmp_path: Path) -> None:
    async def claim() -> None:
        async with store(tmp_path) as there, serve(Server(there)) as server, Client(http(server)) as client:
            with pytest.raises(BuswayClientError, match=r"a\.\.b") as refused:
                await take(client.subscribe("a..b"), 1)
            assert refused.value.code == "bad_pattern"
            with pytest.raises(BuswayClientError, match="empty") as refused:
                await take(client.subscribe(filter={}), 1)
            assert refused.value.code == "bad_filter"
            server.access = Unauthorized("a key is needed")
            with pytest.raises(BuswayClientError, match="key") as refused:
                await take(client.subscribe(), 1)
            assert refused.value.code == 4401

    asyncio.run(claim())


def test_no_gateway_is_said(unused_port: int) -> None:
    async def claim() -> None:
        async with Client(f"http://127.0.0.1:{unused_port}") as client:
            with pytest.raises(BuswayClientError, match="no gateway"):
                await take(client.subscribe(), 1)
            with pytest.raises(BuswayClientError, match="no gateway"):
                await client.publish("order.created")

    asyncio.run(claim())


class Taker:
    """An HTTP server that takes events and remembers what it was sent."""

    def __init__(self) -> None:
        self.bodies: list[Any] = []
        self.keys: list[str] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message["body"]
            if not message["more_body"]:
                break
        self.bodies.append(json.loads(body))
        self.keys.append(dict(scope["headers"]).get(b"authorization", b"").decode())
        status, answer = self.answer(self.bodies[-1])
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    def answer(self, body: Any) -> tuple[int, Any]:
        if isinstance(body, list):
            return 202, {"items": [self.receipt(event) for event in body]}
        if body["type"] == "":
            return 422, {"title": "Invalid", "status": 422, "detail": "a type has 1 to 255 characters"}
        return 202, self.receipt(body)

    def receipt(self, event: Any) -> Any:
        return {"seq": 1, "id": "i", "source": "/", "type": event["type"], "runs": 0, "duplicate": False}


def test_publishing_sends_json_and_gives_receipts(unused_port: int) -> None:
    async def claim() -> None:
        taker = Taker()
        config = uvicorn.Config(taker, port=unused_port, lifespan="off", log_config=None)
        running = uvicorn.Server(config)
        serving = asyncio.create_task(running.serve())
        await until(lambda: running.started)
        async with Client(f"http://127.0.0.1:{unused_port}", "secret") as client:
            receipt = await client.publish("order.created", {"n": "é"}, subject="s")
            assert (receipt.seq, receipt.type, receipt.duplicate) == (1, "order.created", False)
            assert taker.bodies.pop() == {"type": "order.created", "data": {"n": "é"}, "subject": "s"}
            assert taker.keys.pop() == "Bearer secret"
            await client.publish("blob", b"\x00\xff")
            encoded = base64.b64encode(b"\x00\xff").decode()
            assert taker.bodies.pop() == {"type": "blob", "data_base64": encoded}
            receipts = await client.publish_many([{"type": "a"}, {"type": "b", "data": 1}])
            assert [r.type for r in receipts] == ["a", "b"]
            with pytest.raises(BuswayClientError, match="1 to 255") as refused:
                await client.publish("")
            assert (refused.value.status, refused.value.problem["title"]) == (422, "Invalid")
            with pytest.raises(ValueError, match="JSON"):
                await client.publish("a", float("nan"))
        running.should_exit = True
        await serving

    asyncio.run(claim())


def test_tail_prints_json_lines_and_lines_for_people(tmp_path: Path) -> None:
    async def printed(server: Server, *, json_lines: bool) -> list[str]:
        out = io.StringIO()
        console, wanted = Console(file=out, width=500), Wanted(types=["order.*"], after="earliest")
        following = asyncio.create_task(
            tail(http(server), None, wanted, json_lines=json_lines, console=console)
        )
        await until(lambda: out.getvalue().count("\n") == 2)
        following.cancel()
        await following
        return out.getvalue().splitlines()

    async def claim() -> None:
        async with store(tmp_path) as there, serve(Server(there)) as server:
            await there.produce(2, data=b'"\\u001b[31mred"')
            first = json.loads((await printed(server, json_lines=True))[0])
            assert (first["event"]["seq"], first["data"]) == (1, "\x1b[31mred")
            assert "data_base64" not in first
            line = (await printed(server, json_lines=False))[1]
            for word in ("succeeded", "order.created", "#2", "invoice", "1 succeeded"):
                assert word in line
            assert "\x1b" not in line

    asyncio.run(claim())


def test_tail_says_in_one_line_what_is_wrong(tmp_path: Path, unused_port: int) -> None:
    async def claim() -> None:
        with pytest.raises(BuswayError, match="no gateway"):
            await tail(f"http://127.0.0.1:{unused_port}", None, Wanted())
        async with store(tmp_path) as there, serve(Server(there)) as server:
            server.access = Unauthorized("a key is needed")
            with pytest.raises(BuswayError, match="key"):
                await tail(http(server), "wrong", Wanted())
            server.access = OPEN

    asyncio.run(claim())


def test_tail_says_that_it_is_behind_and_that_it_caught_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def claim() -> None:
        out, notes = io.StringIO(), io.StringIO()
        async with store(tmp_path) as there, serve(Server(there)) as server:
            monkeypatch.setattr("busway.gateway.cli.following.BEHIND", 0.0)
            following = asyncio.create_task(
                tail(
                    http(server),
                    None,
                    Wanted(after="earliest"),
                    console=Console(file=out),
                    notes=Console(file=notes),
                )
            )
            await there.produce(1)
            await until(lambda: "behind" in notes.getvalue())
            monkeypatch.setattr("busway.gateway.cli.following.BEHIND", 1e9)
            await there.produce(1)
            await until(lambda: "caught up" in notes.getvalue())
            following.cancel()
            await following
            assert "--after" in notes.getvalue()
            assert "behind" not in out.getvalue()

    asyncio.run(claim())


def test_results_that_come_before_the_subscription_begins_are_not_lost(tmp_path: Path) -> None:
    async def claim() -> None:
        async with store(tmp_path) as there, serve(Server(there)) as server:
            await there.produce(3)
            connections = 0

            async def carry(gateway: ClientConnection, client: ServerConnection) -> None:
                await gateway.send(await client.recv())
                if connections == 1:
                    await gateway.recv()  # `subscribed`, which the first connection is not given
                async for text in gateway:
                    await client.send(text)

            async def relay(client: ServerConnection) -> None:
                nonlocal connections
                connections += 1
                async with connect(server.url) as gateway:
                    carrying = asyncio.ensure_future(carry(gateway, client))
                    await client.wait_closed()
                    carrying.cancel()

            async with websocket_server(relay, "127.0.0.1", 0) as listening:
                port = next(iter(listening.sockets)).getsockname()[1]
                async with (
                    Client(f"http://127.0.0.1:{port}") as client,
                    aclosing(client.subscribe(after="earliest")) as stream,
                ):
                    assert [item.event.seq for item in await take(stream, 3)] == [1, 2, 3]
            assert connections == 2

    asyncio.run(claim())
