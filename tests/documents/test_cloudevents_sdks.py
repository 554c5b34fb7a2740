"""The CloudEvents SDKs for Python and JavaScript publish in every mode they have, and read the event back."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import httpx
import pytest
from cloudevents.core.bindings import http
from cloudevents.core.v1.event import CloudEvent
from cloudevents.v1 import conversion as before
from cloudevents.v1.http import CloudEvent as CloudEventBefore
from cloudevents.v1.http import from_http

from tests.documents.node import Node
from tests.e2e.service import Service

STRUCTURED = {"Accept": "application/cloudevents+json"}
BYTES = bytes(range(256))


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("sdks"))
    yield service.start()
    service.close()


def publish(service: Service, headers: dict[str, str], body: bytes) -> httpx.Response:
    """Publish a message of an SDK and return the answer that has the event in structured mode."""
    answer = service.request("POST", "/v1/events", headers=headers, content=body)
    assert answer.status_code == 202, answer.text
    return service.get(f"/v1/events/{answer.json()['seq']}", headers=STRUCTURED)


EVENTS: dict[str, tuple[dict[str, Any], Any]] = {
    "no-data": ({}, None),
    "json": ({"datacontenttype": "application/json", "subject": "50% of é 😀"}, {"a": [1, None, "ø"]}),
    "implied": ({"partitionkey": "k 1"}, {"a": 1}),
    "text": ({"datacontenttype": "text/plain; charset=utf-8", "dataschema": "https://x.example/s"}, "é\n"),
    "bytes": ({"datacontenttype": "image/png", "n": 5, "colour": 'a "b"'}, BYTES),
}
TIME = datetime(2026, 1, 31, 12, 0, 0, 123456, UTC)


@pytest.mark.parametrize("write", [http.to_structured_event, http.to_binary_event])
@pytest.mark.parametrize("name", EVENTS)
def test_the_sdk_for_python(
    service: Service, name: str, write: Callable[[CloudEvent], http.HTTPMessage]
) -> None:
    more, data = EVENTS[name]
    id_ = f"{write.__name__}-{name}"
    attributes = {"type": "sdk.python", "source": "/sdk", "id": id_, "time": TIME, **more}
    binary = write is http.to_binary_event
    if binary and name == "implied":
        attributes["datacontenttype"] = "application/json"  # it writes none, and without it bytes are bytes
    message = write(CloudEvent(dict(attributes), data))
    answer = publish(service, message.headers, message.body)
    read = http.from_structured_event(http.HTTPMessage(dict(answer.headers), answer.content))
    found = read.get_attributes()
    if binary and "n" in more:
        attributes["n"] = "5"
    assert found == {**attributes, "specversion": "1.0", "correlationid": id_}
    assert read.get_data() == (data.encode() if binary and isinstance(data, str) else data)


@pytest.mark.parametrize("write", [before.to_structured, before.to_binary])
def test_version_1_of_the_sdk_for_python(service: Service, write: Any) -> None:
    attributes = {
        "type": "sdk.python", "source": "/sdk", "id": f"v1-{write.__name__}", "subject": "a b",
        "time": TIME.isoformat(), "datacontenttype": "application/json", "colour": "red",
    }  # fmt: skip
    sent = CloudEventBefore(attributes, {"a": [1]})
    headers, body = write(sent)
    answer = publish(service, headers, body)
    read = from_http(dict(answer.headers), answer.content)
    found = {name: value for name, value in read.get_attributes().items() if name != "correlationid"}
    assert found.pop("time") == "2026-01-31T12:00:00.123456Z"
    assert found == {k: v for k, v in sent.get_attributes().items() if k != "time"}
    assert read.get_data() == {"a": [1]}


@pytest.mark.long
def test_the_sdk_for_javascript(service: Service, node: Node) -> None:
    common = {"type": "sdk.javascript", "source": "/sdk", "time": "2026-01-31T12:00:00.123Z"}
    events = [
        {**common, "id": "json", "data": {"a": [1, None, "ø"]}, "subject": "a"},
        {
            **common,
            "id": "typed",
            "datacontenttype": "application/json",
            "data": [1],
            "n": 5,
            "colour": "red",
        },
        {**common, "id": "text", "datacontenttype": "text/plain", "data": "é", "flag": True},
        {**common, "id": "bytes", "datacontenttype": "image/png", "base64": base64.b64encode(BYTES).decode()},
    ]
    said = node.run("cloudevents.mjs", stdin=json.dumps({"url": service.url, "events": events}))
    assert said.returncode == 0, said.stderr
    found = {each.pop("id"): each for each in json.loads(said.stdout)}
    assert len(found) == 3 * len(events)
    for event in events:
        for mode in ("structured", "binary", "batch"):
            id_ = f"{mode}-{event['id']}"
            wanted = {**event, "correlationid": id_, "specversion": "1.0"}
            del wanted["id"]
            if "base64" in wanted:
                wanted["data_base64"] = wanted["data"] = wanted.pop("base64")
            if mode == "binary":
                wanted.setdefault("datacontenttype", "application/json; charset=utf-8")  # it says so itself
                wanted |= {name: value for name, value in (("n", "5"), ("flag", "true")) if name in wanted}
                if event["id"] == "text":
                    wanted["data_base64"] = wanted["data"] = base64.b64encode("é".encode()).decode()
            assert found[id_] == wanted
