"""Builds the OpenAPI document: FastAPI's document with the contract's types for bodies and answers."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from busway.contract import schemas
from busway.gateway.access.sessions import COOKIE
from busway.gateway.api.auditing import DRY_RUN
from busway.gateway.api.describing import EXAMPLE_TEXT, problem_name, reference, shared_responses
from busway.version import __version__

_DESCRIPTION = """Publish events, run Python handlers on them, and subscribe to the results.

To try it, **Execute** `POST /v1/events` with its example, then `GET /v1/runs` and `GET /v1/results`.
The WebSocket `/v1/subscribe` sends results live. [asyncapi.json](asyncapi.json) describes it."""

_TAGS = [
    {"name": "events", "description": "Publish and read events."},
    {"name": "handlers", "description": "Functions that run on matching events, with their limits."},
    {"name": "schedules", "description": "Publish events again and again, by the clock."},
    {"name": "runs", "description": "One run is one event processed by one handler."},
    {"name": "results", "description": "The log of results of all handlers, in one order."},
    {"name": "sources", "description": "Webhooks of senders that sign their requests."},
    {"name": "service", "description": "Health, status and metrics."},
    {"name": "audit", "description": "Who changed what."},
    {"name": "keys", "description": "API keys, scopes and tickets."},
]
_KEY = "An API key, `bw_…`. While the gateway has no key, and accepts no tokens, none is needed."
_JWT = "A JSON Web Token of the issuer that the gateway was started with (`--jwt-issuer`)."
_SESSION = (
    "The session of a page of the gateway itself, set by `POST /v1/session`. Over HTTPS its name is "
    "`__Host-busway_session`. Requests other than GET and HEAD need the header `X-Busway-CSRF`, too."
)
_PUBLIC = {"/healthz", "/readyz", "/asyncapi.json"}
_SIGNED = {"/v1/hooks/{name}"}
"""Admitted by a signature, so keys, origins and Host names do not matter."""
_FOR_ALL = {"sign_in", "sign_out"}


def openapi(app: FastAPI) -> dict[str, Any]:
    """Build the document. It depends only on the code."""
    document = get_openapi(
        title="Busway", version=__version__, description=_DESCRIPTION, routes=app.routes, tags=_TAGS
    )
    for path, operations in document["paths"].items():
        for operation in operations.values():
            _decode_examples(operation)
            _add_problems(path, operation)
            _prefill(operation)
            if path in _PUBLIC | _SIGNED or operation["operationId"] in _FOR_ALL:
                operation["security"] = []
    components = document["components"]
    components["responses"] = _used(document)
    components["securitySchemes"] = {
        "token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT", "description": _JWT},
        "key": {"type": "http", "scheme": "bearer", "description": _KEY},
        "session": {"type": "apiKey", "in": "cookie", "name": COOKIE, "description": _SESSION},
    }
    document["security"] = [{"key": []}, {"token": []}, {"session": []}]
    others = {name: schema for name, schema in components["schemas"].items() if name not in _FASTAPI}
    shapes = schemas.components(set(schemas.refs(document)) & schemas.named().keys())
    components["schemas"] = dict(sorted({**others, **shapes}.items()))
    return document


def _decode_examples(operation: dict[str, Any]) -> None:
    for response in operation["responses"].values():
        for content in response.get("content", {}).values():
            if EXAMPLE_TEXT in content:
                content["example"] = msgspec.json.decode(content.pop(EXAMPLE_TEXT))


def _used(document: dict[str, Any]) -> dict[str, Any]:
    """Return the responses that routes refer to."""
    used = set(schemas.refs(document, prefix="#/components/responses/"))
    return {name: response for name, response in shared_responses().items() if name in used}


_FASTAPI = {"HTTPValidationError", "ValidationError"}  # FastAPI's 422, which this API does not use


def _add_problems(path: str, operation: dict[str, Any]) -> None:
    """Add the problems that do not depend on the route itself."""
    statuses = {429} if path in _SIGNED else {403, 421, 429}
    if path not in _PUBLIC:
        statuses |= {401, 503}
    if path.startswith("/v1/"):
        statuses.add(422)
    if "requestBody" in operation:
        statuses |= {400, 408, 413, 415}
    if any(parameter["name"] == "after" for parameter in operation.get("parameters", ())):
        statuses.add(400)
    parameters = {parameter["name"] for parameter in operation.get("parameters", ())}
    if DRY_RUN in parameters:
        operation["responses"].setdefault("204", {"description": "It was a dry run: nothing has changed."})
    responses = {int(status): response for status, response in operation["responses"].items()}
    if responses.get(422, {}).get("description") == "Validation Error":
        del responses[422]  # FastAPI's 422, which this API does not use
    statuses = (statuses - responses.keys()) | {code for code, found in responses.items() if "$ref" in found}
    for code in statuses:
        name = problem_name(code, parameters, has_body="requestBody" in operation)
        responses[code] = reference(name)
    operation["responses"] = {str(status): responses[status] for status in sorted(responses)}
    operation["responses"]["default"] = reference("Problem")


def _prefill(operation: dict[str, Any]) -> None:
    """Set `example` of each parameter that has examples: pages such as Swagger UI fill it in."""
    for parameter in operation.get("parameters", ()):
        examples = parameter.get("schema", {}).get("examples")
        if examples:
            parameter["example"] = examples[0]
