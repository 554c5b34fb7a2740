"""Builds the OpenAPI description of a route: its body, its answer and its problems."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from busway.contract.problems import MEDIA_TYPE, Problem
from busway.contract.schemas import Schema, ref

JSON = "application/json"

Shape = type[msgspec.Struct]

PROBLEMS = {
    400: ("BadRequest", "The body or a parameter is malformed."),
    401: ("Unauthorized", "The API key is missing, unknown, revoked or expired."),
    403: ("Forbidden", "The API key lacks the scope, or the origin of the page is not allowed."),
    404: ("NotFound", "The object does not exist."),
    408: ("RequestTimeout", "The request did not arrive completely in time."),
    409: ("Conflict", "The state of the object does not allow this."),
    410: ("Gone", "The results after this cursor were deleted, or the cursor belongs to another log."),
    413: ("TooLarge", "The body, or an event in it, exceeds the limit."),
    415: ("UnsupportedMediaType", "The media type or the encoding of the body is not supported."),
    421: ("Misdirected", "A gateway without API keys accepts only direct requests to a loopback address."),
    422: ("Invalid", "A field or a parameter is invalid or unknown."),
    503: ("Unavailable", "The gateway is starting, stopping or overloaded, or cannot write to its database."),
}
"""The name and the description of problems that several routes have, by status."""


def problem_name(status: int) -> Schema:
    """Return a reference to the response for a problem."""
    return {"$ref": f"#/components/responses/{PROBLEMS[status][0]}"}


def problem(description: str) -> Schema:
    """Return a response that is a problem document."""
    return {"description": description, "content": {MEDIA_TYPE: {"schema": ref(Problem)}}}


def answers(
    shape: Shape | tuple[Shape, ...] | None,
    description: str,
    *,
    status: int = 200,
    example: Any = None,
    problems: Mapping[int, str | None] | None = None,
) -> Any:
    """Return the `responses` of a route.

    Args:
        shape: the type of the answer, a tuple of alternatives, or None.
        description: the description of the answer.
        status: the status of the answer.
        example: an example of the answer.
        problems: descriptions of problems by status. None: the description in `PROBLEMS`. The document adds
            the problems that every route can have.
    """
    answer: Schema = {"description": description}
    if shape is not None:
        content = {"schema": _schema(shape)}
        answer["content"] = {JSON: content if example is None else {**content, "example": example}}
    return {
        status: answer,
        **{code: problem(text) if text else problem_name(code) for code, text in (problems or {}).items()},
    }


def body(shape: Shape, example: Any, schema: Schema | None = None) -> dict[str, Any]:
    """Return the `openapi_extra` of a route that decodes its body itself."""
    content = {JSON: {"schema": schema or ref(shape), "example": example}}
    return {"requestBody": {"required": True, "content": content}}


def _schema(shape: Shape | tuple[Shape, ...]) -> Schema:
    return {"anyOf": [ref(each) for each in shape]} if isinstance(shape, tuple) else ref(shape)
