"""The OpenAPI document, by a validator and a client in TypeScript; and the check of answers."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import httpx
import jsonschema
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.documents.answers import EXPORTED, as_described, document
from tests.documents.node import Node

TSC = "node_modules/typescript/bin/tsc"
GENERATOR = "node_modules/openapi-typescript/bin/cli.js"
HERE = Path(__file__).parent


def faults(text: dict[str, Any]) -> list[str]:
    return [fault.message for fault in OpenAPIV31SpecValidator(text).iter_errors()]


def test_a_validator_finds_nothing_wrong() -> None:
    assert faults(document()) == []


@pytest.mark.long
def test_the_validator_would_find_it() -> None:
    no_parameter, bad_default = copy.deepcopy(document()), copy.deepcopy(document())
    del no_parameter["paths"]["/v1/runs/{id}"]["get"]["parameters"]
    bad_default["components"]["schemas"]["Filter"]["properties"]["exact"]["default"] = {}
    assert any("'id'" in fault for fault in faults(no_parameter))
    assert "{} should be non-empty" in faults(bad_default)


def test_operation_ids_are_short_and_unique() -> None:
    ids = [op["operationId"] for ops in document()["paths"].values() for op in ops.values()]
    assert len(set(ids)) == len(ids) > 30
    assert all(name.replace("_", "").isalpha() and len(name) <= 20 for name in ids)


def test_every_schema_and_response_is_used() -> None:
    text = json.dumps(document())
    for kind in ("schemas", "responses"):
        for name in document()["components"][kind]:
            assert f'"#/components/{kind}/{name}"' in text, name


@pytest.mark.long
def test_a_client_in_typescript_compiles_with_types_from_the_document(node: Node, tmp_path: Path) -> None:
    made = node.run(GENERATOR, EXPORTED, "-o", tmp_path / "schema.ts")
    assert made.returncode == 0, made.stderr
    client = (HERE / "client.ts").read_text(encoding="utf-8")
    wrong = client.replace("item.handler", "item.handle")
    assert wrong != client
    (tmp_path / "client.ts").write_text(client, encoding="utf-8")
    (tmp_path / "wrong.ts").write_text(wrong, encoding="utf-8")
    options = (
        "--noEmit",
        "--strict",
        "--exactOptionalPropertyTypes",
        "--module",
        "esnext",
        "--target",
        "es2022",
        "--moduleResolution",
        "bundler",
        "--pretty",
        "false",
    )
    said = node.run(TSC, *options, tmp_path / "client.ts", tmp_path / "wrong.ts")
    faults = [line for line in said.stdout.splitlines() if not line.startswith(" ")]
    assert all("wrong.ts" in line for line in faults), said.stdout
    assert any("Property 'handle' does not exist" in line for line in faults), said.stdout


def test_a_document_with_a_reference_to_nothing_makes_no_types(node: Node, tmp_path: Path) -> None:
    broken = copy.deepcopy(document())
    del broken["components"]["schemas"]["Run"]
    (tmp_path / "broken.json").write_text(json.dumps(broken), encoding="utf-8")
    assert node.run(GENERATOR, tmp_path / "broken.json", "-o", tmp_path / "schema.ts").returncode != 0


RUN = {
    "id": 1, "event": 1, "handler": "a", "revision": 1, "state": "dead", "attempt": 1, "max_attempts": 5,
    "available_at": "", "created_at": "", "finished_at": None, "error": None, "replay": None,
}  # fmt: skip
PROBLEM = {"type": "t", "title": "t", "status": 404, "detail": "d"}


def answer(
    method: str, path: str, status: int, body: Any, media_type: str = "application/json"
) -> httpx.Response:
    request = httpx.Request(method, f"http://localhost{path}")
    content = b"" if body is None else json.dumps(body).encode()
    return httpx.Response(status, request=request, content=content, headers={"Content-Type": media_type})


def test_answers_that_fit_are_admitted() -> None:
    as_described(answer("GET", "/v1/runs", 200, {"items": [RUN], "next": None}))
    as_described(answer("HEAD", "/v1/runs", 200, None))
    as_described(answer("GET", "/v1/runs/1", 404, PROBLEM, "application/problem+json"))
    as_described(answer("GET", "/v1/runs/1", 431, PROBLEM, "application/problem+json"))
    as_described(answer("GET", "/v1/nothing", 404, PROBLEM, "application/problem+json"))
    as_described(answer("DELETE", "/v1/subscriptions/a/b", 204, None))


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/v1/runs", 200, {"items": [{**RUN, "new": 1}], "next": None}),
        ("GET", "/v1/runs", 200, {"items": [{**RUN, "state": "odd"}], "next": None}),
        ("GET", "/v1/runs", 200, {"items": [{k: v for k, v in RUN.items() if k != "error"}], "next": None}),
        ("GET", "/v1/runs", 409, PROBLEM),
        ("GET", "/v1/runs", 500, PROBLEM),
        ("GET", "/v1/runs/1", 404, PROBLEM),
        ("DELETE", "/v1/keys/1", 204, {}),
    ],
)
def test_answers_that_do_not_fit_are_found(method: str, path: str, status: int, body: Any) -> None:
    with pytest.raises((AssertionError, jsonschema.ValidationError)):
        as_described(answer(method, path, status, body))
