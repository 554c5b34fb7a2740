"""Frames checked against the AsyncAPI document: every frame that a test receives must fit."""

from __future__ import annotations

import functools
from typing import Any

from busway.gateway.subscribers import asyncapi

from tests.documents import closed


@functools.cache
def document() -> dict[str, Any]:
    return asyncapi.document()


@functools.cache
def validator(name: str) -> Any:
    components = document()["components"]
    return closed.validator(components["messages"][name]["payload"], components["schemas"])


def heard(frame: dict[str, Any]) -> dict[str, Any]:
    """Return a frame of the gateway if it is as the document says."""
    shown = {**frame, "items": frame["items"][: closed.SAMPLE]} if frame.get("op") == "results" else frame
    validator(frame["op"]).validate(shown)
    return frame


def told(name: str, data: Any) -> Any:
    """Return the data of a Server-Sent Event if it is as the document says."""
    validator({"message": "item"}.get(name, f"stream_{name}")).validate(data)
    return data
