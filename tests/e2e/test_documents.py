"""The OpenAPI and AsyncAPI documents are true, and the exported ones are not stale."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from .service import PATIENCE, Service, hear, say, until

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def service(tmp_path_factory: Any) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("documents"), handlers=ROOT / "examples" / "handlers")
    service.start()
    yield service
    service.close()


def test_the_exported_documents_are_not_stale(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "busway", "openapi", str(tmp_path)], check=True, timeout=PATIENCE)
    for name in ("openapi.json", "asyncapi.json"):
        exported = (ROOT / "openapi" / name).read_text(encoding="utf-8")
        assert (tmp_path / name).read_text(encoding="utf-8") == exported, "run `busway openapi` and commit"


def test_the_service_serves_what_is_exported(service: Service) -> None:
    for name in ("openapi.json", "asyncapi.json"):
        assert service.ok("GET", f"/{name}") == json.loads(
            (ROOT / "openapi" / name).read_text(encoding="utf-8")
        )


def test_every_operation_has_a_summary_and_described_parameters(service: Service) -> None:
    document = service.ok("GET", "/openapi.json")
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            where = f"{method} {path}"
            assert operation["summary"], where
            assert operation["tags"], where
            for parameter in operation.get("parameters", ()):
                assert parameter.get("description"), f"{where} {parameter['name']}"
                if parameter["in"] == "path":
                    assert parameter.get("examples") or parameter["schema"].get("examples"), where
            if "requestBody" in operation:
                assert "example" in operation["requestBody"]["content"]["application/json"], where


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "components": document["components"]}


def operations(document: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    """All operations: what makes things first, then what reads and changes them, deletions last."""
    found = [(method, path, op) for path, ops in document["paths"].items() for method, op in ops.items()]
    return sorted(found, key=lambda each: (each[0] == "delete", each[0] != "post" or "{" in each[1]))


def executed(service: Service, method: str, path: str, operation: dict[str, Any]) -> httpx.Response:
    """Press "Execute" on an operation as it stands in the docs page."""
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            example = (parameter["schema"].get("examples") or parameter["examples"])[0]
            path = path.replace("{" + parameter["name"] + "}", str(example))
    if "text/event-stream" in operation["responses"].get("200", {}).get("content", {}):
        with service.client.stream(method, service.url + path) as answer:
            assert next(answer.iter_lines()).startswith("retry: ")
        return answer
    if "requestBody" not in operation:
        return service.request(method, path)
    return service.request(
        method, path, json=operation["requestBody"]["content"]["application/json"]["example"]
    )


def test_every_example_works_when_executed_as_it_stands(service: Service) -> None:
    document = service.ok("GET", "/openapi.json")
    with service.connect("?durable=billing") as socket:  # made over a socket, so nothing here could make it
        hear(socket)
    until(
        lambda: not service.ok("GET", "/v1/subscriptions")["items"][0]["connected"], "the end of the socket"
    )
    for method, path, operation in operations(document):
        if path.startswith("/v1/keys"):
            continue  # the first key closes the open gateway: test_access has its turn
        if path.endswith("/resume"):
            service.post("/v1/handlers/try-me/pause")
        elif path.endswith("/pause"):
            service.post("/v1/handlers/try-me/resume")
        answer = executed(service, method, path, operation)
        in_its_state = {409} if path.endswith(("/cancel", "/{id}/retry")) else set()
        assert answer.is_success or answer.status_code in in_its_state, f"{method} {path}: {answer.text}"
        described = operation["responses"].get(str(answer.status_code), {}).get("content", {})
        schema = described.get("application/json", {}).get("schema")
        if answer.is_success and schema:
            jsonschema.validate(answer.json(), resolved(document, schema))


def test_what_handlers_produce_is_as_the_document_says(service: Service) -> None:
    document = service.ok("GET", "/openapi.json")
    receipt = service.publish("order.created", {"item": "book", "quantity": 2})
    service.finished(receipt["seq"])
    schema = {"$ref": "#/components/schemas/ItemList"}
    jsonschema.validate(service.get("/v1/results").json(), resolved(document, schema))
    schema = {"$ref": "#/components/schemas/Tree"}
    jsonschema.validate(service.ok("GET", f"/v1/events/{receipt['seq']}/tree"), resolved(document, schema))


def test_the_frames_of_the_socket_are_named_in_the_asyncapi_document(service: Service) -> None:
    text = json.dumps(service.ok("GET", "/asyncapi.json"))
    with service.connect() as socket:
        say(socket, op="subscribe", id="s")
        said = {hear(socket)["op"]}
        say(
            socket,
            op="publish",
            ref="r",
            event={"type": "order.created", "data": {"item": "pen", "quantity": 1}},
        )
        said |= {hear(socket)["op"] for _ in range(2)}
        say(socket, op="nothing")
        while "error" not in said:
            said.add(hear(socket)["op"])
    assert said == {"subscribed", "published", "results", "error"}
    for op in (*said, "pong", "unsubscribed", "subscribe", "unsubscribe", "publish", "ping"):
        assert f'"{op}"' in text


@pytest.mark.parametrize("accept", ["text/html,application/xhtml+xml;q=0.9,*/*;q=0.8", "*/*"])
def test_the_root_leads_to_the_docs_page(service: Service, accept: str) -> None:
    answer = service.get("/", headers={"Accept": accept})
    assert (answer.status_code, answer.headers["location"]) == (307, "/docs")
    page = service.get(answer.headers["location"])
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
