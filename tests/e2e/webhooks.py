"""Handlers whose target is a URL, for tests: each takes the events of the type that is its name."""

from __future__ import annotations

from typing import Any

from .service import Service


def register(service: Service, name: str, url: str, **fields: Any) -> dict[str, Any]:
    """Create a handler for events of the type that is its name."""
    made: dict[str, Any] = service.ok(
        "POST", "/v1/handlers", {"name": name, "target": url, "events": [name], **fields}
    )
    return made


def run(service: Service, type_: str, data: Any = None, **attributes: Any) -> dict[str, Any]:
    return service.run_of(service.publish(type_, data, **attributes)["seq"])
