"""Items as CloudEvents: over the WebSocket, with the subprotocol `cloudevents.json`, and in the stream."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from tests.documents.frames import validator
from tests.subscribers.kit import PATIENCE, Server, Store, peer, until
from tests.subscribers.test_streams import Stream, run


def check(event: dict[str, Any], kind: str = "item_cloudevent") -> dict[str, Any]:
    """Return the data of a CloudEvent that the document and the SDK know as one."""
    validator(kind).validate(event)
    read = JSONFormat().read(CloudEvent, json.dumps(event))
    assert isinstance(read, CloudEvent)
    data: dict[str, Any] = event["data"]
    if kind == "item_cloudevent":
        assert event["id"] == data["cursor"]
        assert event["type"] == f"busway.result.{data['kind']}"
        assert event["source"] == f"/handlers/{data['handler']}"
        assert event["causationid"] == data["event"]["id"]
        validator("item").validate(data)
    return data


def test_a_subscription_asks_for_cloudevents(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        async with peer(server) as client:
            await client.ask(op="subscribe", id="plain")
            await client.say(op="subscribe", id="s1", format="cloudevents")
            assert (await client.hear())["op"] == "subscribed"
            await there.produce(2, subject="x")
            items: dict[str, list[Any]] = {"plain": [], "s1": []}
            while min(map(len, items.values())) < 2:
                frame = json.loads(await client.socket.recv())
                assert frame["op"] == "results"
                items[frame["id"]] += frame["items"]
                last = frame["items"][-1]
                assert frame["cursor"] in {last.get("cursor"), last.get("id")}
            assert [check(item) for item in items["s1"]] == items["plain"]
            first = items["s1"][0]["id"]
        async with peer(server, f"?format=cloudevents&after={first}") as client:  # now from the store
            await client.hear()
            frame = json.loads(await client.socket.recv())
            assert [check(item) for item in frame["items"]] == items["plain"][1:]
        async with peer(server) as client:
            refused = await client.ask(op="subscribe", id="s1", format="avro")
            assert (refused["code"], "cloudevents" in refused["detail"]) == ("bad_subscription", True)

    run(tmp_path, claim)


def test_every_message_of_the_subprotocol_is_one_cloudevent(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        options = {"subprotocols": ["mqtt", "cloudevents.json"]}
        async with peer(server, "?types=order.*", **options) as client:
            assert client.socket.subprotocol == "cloudevents.json"

            async def hear(kind: str) -> dict[str, Any]:
                async with asyncio.timeout(PATIENCE):
                    event = json.loads(await client.socket.recv())
                assert event["type"] == kind
                of_frame = not kind.startswith("busway.result.")
                return check(event, "frame_cloudevent" if of_frame else "item_cloudevent")

            assert (await hear("busway.subscribed"))["id"] == "default"
            await there.produce(3)
            found = [await hear("busway.result.succeeded") for _ in range(3)]
            assert [each["event"]["seq"] for each in found] == [1, 2, 3]
            await there.produce(1, "parcel.sent")
            assert (await hear("busway.moved"))["items"] == []
            await client.say(op="ping")
            assert await hear("busway.pong") == {"op": "pong"}
            await client.socket.send("{")
            assert (await hear("busway.error"))["code"] == "bad_frame"
        async with peer(server, "?odd=1", **options) as client:
            assert (await hear("busway.error"))["code"] == "bad_frame"
            await until(lambda: client.socket.close_code == 4400)
        async with peer(server, subprotocols=["cloudevents.json", "busway.v1"]) as client:
            assert client.socket.subprotocol == "busway.v1"

    run(tmp_path, claim)


def test_a_stream_of_cloudevents_has_cursors_as_ids(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        await there.produce(2, data=b'[1,\n"cursor"]')
        url = server.url.replace("ws", "http", 1) + "/sse?after=earliest&format=cloudevents"
        async with httpx.AsyncClient() as client, client.stream("GET", url) as response:
            stream = Stream(response)
            assert (await stream.hear()).name == "subscribed"
            for seq in (1, 2):
                told = await stream.hear()
                event = json.loads(told.data)
                assert (told.name, told.id) == ("message", event["id"])
                assert check(event)["event"]["seq"] == seq

    run(tmp_path, claim)


def test_a_slow_reader_of_cloudevents_gets_all_of_them(tmp_path: Path) -> None:
    async def claim(there: Store, server: Server) -> None:
        await there.produce(300, data=json.dumps("x" * 2000).encode())
        async with peer(server, "?after=earliest", subprotocols=["cloudevents.json"]) as client:
            await client.socket.recv()
            for seq in range(1, 301):
                event = json.loads(await client.socket.recv())
                assert check(event)["event"]["seq"] == seq

    run(tmp_path, claim, ring_bytes=10_000)
