"""The OpenAPI document: FastAPI's, with the contract's types for bodies and answers."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from busway.contract import schemas
from busway.gateway.api.describing import PROBLEMS, problem, problem_name
from busway.version import __version__

_DESCRIPTION = """Publish events, have Python handlers run on them, follow the results live.

Try it: **Execute** `POST /v1/events` below as it stands, then `GET /v1/runs` and `GET /v1/results`.
Results come live over the WebSocket `/v1/subscribe`, described in [asyncapi.json](asyncapi.json)."""

_TAGS = [
    {"name": "events", "description": "facts that programs publish"},
    {"name": "handlers", "description": "for events like this, run that function, with these limits"},
    {"name": "runs", "description": "one event through one handler"},
    {"name": "results", "description": "what handlers produced, in one order"},
    {"name": "keys", "description": "who may do what"},
    {"name": "service", "description": "health and status"},
]
_PUBLIC = {"/healthz", "/readyz", "/asyncapi.json"}
_ANY = "Any other problem: of the HTTP message itself, or a fault of the gateway, which its log explains."


def openapi(app: FastAPI) -> dict[str, Any]:
    """Build the document; the same code always gives the same."""
    document = get_openapi(
        title="Busway", version=__version__, description=_DESCRIPTION, routes=app.routes, tags=_TAGS
    )
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _add_problems(path, operation)
            if path in _PUBLIC:
                operation["security"] = []
    components = document["components"]
    components["responses"] = _used(document)
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "description": "bw_…"}}
    document["security"] = [{"key": []}]
    others = {name: schema for name, schema in components["schemas"].items() if name not in _FASTAPI}
    shapes = schemas.components(set(schemas.refs(document)) & schemas.named().keys())
    components["schemas"] = dict(sorted({**others, **shapes}.items()))
    return document


def _used(document: dict[str, Any]) -> dict[str, Any]:
    """Return the responses that routes refer to."""
    responses = {"Problem": problem(_ANY)} | {name: problem(text) for name, text in PROBLEMS.values()}
    used = set(schemas.refs(document, prefix="#/components/responses/"))
    return {name: response for name, response in responses.items() if name in used}


_FASTAPI = {"HTTPValidationError", "ValidationError"}  # its own form of a 422, which is not ours


def _add_problems(path: str, operation: dict[str, Any]) -> None:
    """Add the problems that come before a route, or from what all routes of its kind do."""
    statuses = {403, 421}
    if path not in _PUBLIC:
        statuses |= {401, 503}
    if path.startswith("/v1/"):
        statuses.add(422)
    if "requestBody" in operation:
        statuses |= {400, 408, 413}
    if any(parameter["name"] == "after" for parameter in operation.get("parameters", ())):
        statuses.add(400)
    responses = {int(status): response for status, response in operation["responses"].items()}
    if responses.get(422, {}).get("description") == "Validation Error":
        del responses[422]  # FastAPI's own form, which is not ours
    statuses = (statuses - responses.keys()) | {code for code, found in responses.items() if "$ref" in found}
    responses |= {status: problem_name(status) for status in statuses}
    operation["responses"] = {str(status): responses[status] for status in sorted(responses)}
    operation["responses"]["default"] = {"$ref": "#/components/responses/Problem"}
