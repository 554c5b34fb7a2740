"""The OpenAPI and AsyncAPI documents are true, and the exported ones are not stale."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest

from tests import forked

from .examples import MakeRun
from .service import PATIENCE, Service, hear, say

pytestmark = pytest.mark.one_database("the documents of the API")

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def service(tmp_path_factory: Any) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("documents"), handlers=ROOT / "examples" / "handlers")
    service.start()
    yield service
    service.close()


def test_the_exported_documents_are_not_stale(tmp_path: Path) -> None:
    forked.run([sys.executable, "-m", "busway", "openapi", str(tmp_path)], check=True, timeout=PATIENCE)
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
                    assert "example" in parameter, where
            if "requestBody" in operation:
                assert "example" in operation["requestBody"]["content"]["application/json"], where


def resolved(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "components": document["components"]}


def executed(service: Service, method: str, path: str, operation: dict[str, Any]) -> httpx.Response:
    """Press "Execute" on an operation as it stands in the docs page."""
    query: dict[str, Any] = {}
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            path = path.replace("{" + parameter["name"] + "}", str(parameter["example"]))
        elif "example" in parameter:
            query[parameter["name"]] = parameter["example"]
    if "text/event-stream" in operation["responses"].get("200", {}).get("content", {}):
        headers = {"Authorization": f"Bearer {service.key}"} if service.key else {}
        with service.client.stream(method, service.url + path, params=query, headers=headers) as answer:
            assert next(answer.iter_lines()).startswith("retry: ")
        return answer
    if "requestBody" not in operation:
        return service.request(method, path, params=query)
    example = operation["requestBody"]["content"]["application/json"]["example"]
    return service.request(method, path, json=example, params=query)


@pytest.fixture
def example_service(tmp_path: Path) -> Iterator[MakeRun]:
    made = MakeRun(tmp_path)
    yield made
    made.close()


REFUSED = {"receive_webhook": 401, "sign_in": 409}
"""What the page cannot sign, and what an open gateway does not need."""


@pytest.mark.long
def test_every_operation_succeeds_as_it_stands_on_a_fresh_make_run(example_service: MakeRun) -> None:
    service = example_service
    service.start()
    document = service.ok("GET", "/openapi.json")
    for path in ("/v1/events/1", "/v1/runs/1", "/v1/handlers/spare", "/v1/handlers/hook"):
        assert service.get(path).status_code == 200  # what path parameters name exists before anything else
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            answer = executed(service, method, path, operation)
            if operation["operationId"] in REFUSED:
                assert answer.status_code == REFUSED[operation["operationId"]]
                continue
            assert answer.is_success, f"{method} {path}: {answer.text}"
            described = operation["responses"][str(answer.status_code)].get("content", {})
            schema = described.get("application/json", {}).get("schema")
            if schema:
                jsonschema.validate(answer.json(), resolved(document, schema))
            if operation["operationId"] == "create_key":
                service.key = answer.json()["key"]
    assert sorted(file.name for file in service.folder.glob("*.db")) == ["examples.db"]


def responses(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """All responses of all operations, with their status."""
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            for status, response in operation["responses"].items():
                name = response.get("$ref", "").rpartition("/")[2]
                yield (
                    f"{method} {path} {status}",
                    status,
                    document["components"]["responses"].get(name, response),
                )


def test_each_response_has_an_example_that_fits_it() -> None:
    document = json.loads((ROOT / "openapi" / "openapi.json").read_text(encoding="utf-8"))
    seen = 0
    for where, status, response in responses(document):
        for media_type, content in response.get("content", {}).items():
            seen += 1
            assert "example" in content, where
            jsonschema.validate(content["example"], resolved(document, content["schema"]))
            if media_type == "application/problem+json":
                assert content["example"]["status"] == (500 if status == "default" else int(status)), where
                assert content["example"]["type"].startswith("urn:busway:problem:"), where
    assert seen > 200


def test_operations_that_can_refuse_a_field_have_422() -> None:
    document = json.loads((ROOT / "openapi" / "openapi.json").read_text(encoding="utf-8"))
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            if path.startswith("/v1/"):
                assert "422" in operation["responses"], f"{method} {path}"


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


BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


def test_the_root_is_the_console_for_browsers_and_names_the_documents_to_programs(service: Service) -> None:
    page = service.get("/", headers={"Accept": BROWSER})
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "unsafe" not in page.headers["content-security-policy"]
    line = service.get("/", headers={"Accept": "*/*"})
    assert (line.status_code, line.headers["content-type"]) == (200, "text/plain; charset=utf-8")
    assert "/docs" in line.text
    links = service.get("/", headers={"Accept": "application/json"})
    assert (links.json()["docs"], links.json()["openapi"]) == ("/docs", "/openapi.json")
    assert "Accept" in page.headers["vary"]
    assert "Accept" in line.headers["vary"]
    assert service.request("HEAD", "/").status_code == 200


@pytest.mark.parametrize("path", ["/nothing", "/v1/nothing", "/v1/<script>"])
def test_an_unknown_address_is_a_page_for_browsers_and_a_problem_for_programs(
    service: Service, path: str
) -> None:
    page = service.client.get(service.url + path, headers={"Accept": BROWSER})
    assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert 'href="/docs"' in page.text
    assert "<script>" not in page.text
    assert "<style" not in page.text
    style = service.get("/docs/static/page.css")
    assert (style.status_code, style.headers["content-type"]) == (200, "text/css; charset=utf-8")
    assert "unsafe" not in page.headers["content-security-policy"]
    for accept in ("*/*", "application/json", None):
        answer = service.get(path, headers={"Accept": accept} if accept else {})
        assert (answer.status_code, answer.headers["content-type"]) == (404, "application/problem+json")
    posted = service.post(path, {}, headers={"Accept": BROWSER})
    assert (posted.status_code, posted.headers["content-type"]) == (404, "application/problem+json")
    missing = service.get("/v1/runs/999999", headers={"Accept": BROWSER})
    assert missing.headers["content-type"] == "application/problem+json"  # an answer of the API, as always
