"""HTTP answers checked against the OpenAPI document: every answer that a test receives must fit."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path
from typing import Any

import httpx

from tests.documents import closed

EXPORTED = Path(__file__).parents[2] / "openapi" / "openapi.json"
OF_THE_MESSAGE = {400, 408, 413, 431}
"""Statuses that are about the HTTP message itself; the document has them as `default`."""


@functools.cache
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(EXPORTED.read_text(encoding="utf-8"))
    return found


@functools.cache
def paths() -> list[tuple[re.Pattern[str], str]]:
    """The paths of the document as expressions; those without parameters come first."""
    found = sorted(document()["paths"], key=lambda path: (path.count("{"), path))
    return [
        (
            re.compile(re.sub(r"\\{\w+\\}", ".+" if "subscriptions" in path else "[^/]+", re.escape(path))),
            path,
        )
        for path in found
    ]


@functools.cache
def operation(method: str, path: str) -> tuple[str, dict[str, Any]] | None:
    """The operation that a request asks for: its path, and what the document says of it."""
    wanted = {"head": "get"}.get(method.lower(), method.lower())
    for expression, template in paths():
        if expression.fullmatch(path) and wanted in document()["paths"][template]:
            return template, document()["paths"][template][wanted]
    return None


@functools.cache
def contents(method: str, template: str, status: str) -> dict[str, Any]:
    """What an operation may answer with a status: media types, each with the validator of its schema."""
    response = document()["paths"][template][method]["responses"][status]
    if "$ref" in response:
        response = document()["components"]["responses"][response["$ref"].rpartition("/")[2]]
    components = document()["components"]["schemas"]
    return {
        media_type: closed.validator(content["schema"], components)
        for media_type, content in response.get("content", {}).items()
    }


def as_described(answer: httpx.Response) -> httpx.Response:
    """Return an answer if it is as the document says."""
    request = answer.request
    found = operation(request.method, request.url.path)
    if found is None or answer.status_code == 405:
        return answer
    template, described = found
    where = f"{request.method} {template}: {answer.status_code}"
    status = str(answer.status_code)
    if status not in described["responses"] and answer.status_code in OF_THE_MESSAGE:
        status = "default"
    assert status in described["responses"], f"{where} is not in the document: {answer.text}"
    expected = contents("get" if request.method == "HEAD" else request.method.lower(), template, status)
    media_type = answer.headers.get("content-type", "").partition(";")[0]
    if not expected:
        assert not answer.content, f"{where} has a body: {answer.text}"
    elif request.method != "HEAD":
        assert media_type in expected, f"{where} is {media_type}, not {', '.join(expected)}"
        if media_type.endswith("json"):
            expected[media_type].validate(closed.sampled(answer.json()))
    return answer
