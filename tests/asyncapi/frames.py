"""Frames checked against the AsyncAPI document: whatever a test hears is as the document says."""

from __future__ import annotations

import functools
from typing import Any

import jsonschema
from busway.gateway.subscribers import asyncapi

SAMPLE = 2  # items of one frame that are looked at: they are made alike, and this validator is slow


@functools.cache
def document() -> dict[str, Any]:
    return asyncapi.document()


@functools.cache
def validator(name: str) -> Any:
    payload = document()["components"]["messages"][name]["payload"]
    schema = {**payload, "components": document()["components"]}
    return jsonschema.Draft202012Validator(schema)


def heard(frame: dict[str, Any]) -> dict[str, Any]:
    """Return a frame of the gateway if it is as the document says."""
    shown = {**frame, "items": frame["items"][:SAMPLE]} if frame.get("op") == "results" else frame
    validator(frame["op"]).validate(shown)
    return frame


def told(name: str, data: Any) -> Any:
    """Return the data of a Server-Sent Event if it is as the document says."""
    validator({"message": "item"}.get(name, f"stream_{name}")).validate(data)
    return data
