"""The OpenAPI document: FastAPI's, with the models of bodies that the stages read themselves."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from busway.gateway.api import schema
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
_BODIES: list[type[BaseModel]] = [
    schema.Problem,
    schema.EventIn,
    schema.HandlerIn,
    schema.HandlerChange,
    schema.TrialIn,
    schema.RetryIn,
    schema.KeyIn,
]


def openapi(app: FastAPI) -> dict[str, Any]:
    """Build the document; the same code always gives the same."""
    document = get_openapi(
        title="Busway", version=__version__, description=_DESCRIPTION, routes=app.routes, tags=_TAGS
    )
    _, models = models_json_schema(
        [(model, "validation") for model in _BODIES], ref_template="#/components/schemas/{model}"
    )
    _refuse_null(models["$defs"]["EventIn"])
    components = document.setdefault("components", {})
    components.setdefault("schemas", {}).update(models["$defs"])
    components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer", "description": "bw_…"}}
    document["security"] = [{"key": []}]
    for path in ("/healthz", "/readyz", "/asyncapi.json"):
        document["paths"][path]["get"]["security"] = []
    for operations in document["paths"].values():
        for operation in operations.values():
            operation["responses"].pop("422", None)  # 4XX tells of it, and in our form
    return document


def _refuse_null(event: dict[str, Any]) -> None:
    """Say of the attributes that may be absent but not null: the models cannot."""
    names = "data_base64 specversion priority deliverat expirytime correlationid causationid partitionkey"
    for name in names.split():
        member = event["properties"][name]
        member |= member.pop("anyOf")[0]
        member.pop("default")
