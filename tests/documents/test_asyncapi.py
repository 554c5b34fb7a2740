"""The AsyncAPI document, by the official parser and by the gateway itself."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection

from tests.documents.frames import document, told, validator
from tests.documents.node import Node
from tests.e2e.service import Service, hear, say
from tests.subscribers.stream import Reader

ROOT = Path(__file__).parents[2]
Diagnostics = list[dict[str, Any]]


def parsed(node: Node, *documents: dict[str, Any]) -> list[Diagnostics]:
    said = node.run("asyncapi.mjs", stdin=json.dumps([json.dumps(each) for each in documents]))
    assert said.returncode == 0, said.stderr
    found: list[Diagnostics] = json.loads(said.stdout)
    return found


@pytest.mark.long
def test_the_official_parser_finds_nothing_wrong_and_would_find_it(node: Node) -> None:
    exported = json.loads((ROOT / "openapi" / "asyncapi.json").read_text(encoding="utf-8"))
    no_host, no_message = copy.deepcopy(document()), copy.deepcopy(document())
    del no_host["servers"]["local"]["host"]
    del no_message["channels"]["subscribe"]["messages"]["ping"]
    found, *broken = parsed(node, exported, no_host, no_message)
    assert [said for said in found if said["code"] != "asyncapi-latest-version"] == []
    for said, code in zip(broken, ("asyncapi-document-resolved", "invalid-ref"), strict=True):
        assert code in {each["code"] for each in said if each["severity"] == 0}


def test_every_message_has_an_example_that_its_schema_admits() -> None:
    for name in document()["components"]["messages"]:
        validator(name).validate(example(name))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("asyncapi"), handlers=ROOT / "examples" / "handlers")
    yield service.start()
    service.close()


def example(name: str) -> dict[str, Any]:
    payload: dict[str, Any] = document()["components"]["messages"][name]["examples"][0]["payload"]
    return payload


def ask(socket: ClientConnection, name: str) -> dict[str, Any]:
    socket.send(json.dumps(example(name)))
    return hear(socket)


def test_the_examples_are_frames_that_the_gateway_takes_and_sends(service: Service) -> None:
    data = {"item": "pen", "quantity": 1, "customer": {"country": "NO"}}  # as the example's filter wants it
    event = {"type": "order.created", "subject": "eu-1", "data": data}
    with service.connect() as socket:
        begun = ask(socket, "subscribe")
        again = ask(socket, "subscribe")
        said = {frame["op"]: frame for frame in (begun, again, ask(socket, "ping"), ask(socket, "publish"))}
        say(socket, op="publish", ref="r1", event=event)
        while "results" not in said or not said["results"]["items"]:
            frame = hear(socket)
            said[frame["op"]] = frame
        socket.send(json.dumps(example("unsubscribe")))
        while "unsubscribed" not in said:
            frame = hear(socket)
            said[frame["op"]] = frame
    names = document()["operations"]["receive"]["messages"]
    elsewhere = {"authenticated"}  # tests/e2e/test_tokens.py: this gateway accepts no tokens
    assert {name["$ref"].rpartition("/")[2] for name in names} - elsewhere <= said.keys()
    for op, frame in said.items():
        assert frame.keys() == example(op).keys(), op
    assert said["results"]["items"][0].keys() == example("results")["items"][0].keys()
    assert again == example("error")


def test_the_events_of_the_stream_are_as_the_document_says(service: Service) -> None:
    service.finished(service.publish("order.created", {"item": "pen", "quantity": 1})["seq"])
    for query, wanted in (
        ("?after=earliest", "message"),
        (f"?after={'0' * 16}-1-00000000", "gap"),
        ("?types=nothing&after=earliest", "moved"),
    ):
        seen: set[str] = set()
        reader = Reader()
        with service.client.stream("GET", f"{service.url}/v1/subscribe/sse{query}") as answer:
            chunks = answer.iter_raw()
            while not {"subscribed", wanted} <= seen:
                for event in reader.feed(next(chunks)):
                    told(event.name, json.loads(event.data))
                    seen.add(event.name)


def test_every_error_code_of_the_gateway_is_in_the_document() -> None:
    from busway.gateway import errors
    from busway.gateway.subscribers import frames

    known = document()["components"]["schemas"]["ErrorFrame"]["properties"]["code"]["enum"]
    kinds = [kind for module in (errors, frames) for kind in vars(module).values() if isinstance(kind, type)]
    assert {kind.code for kind in kinds if issubclass(kind, errors.BuswayError)} <= set(known)
