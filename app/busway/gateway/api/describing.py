"""What the OpenAPI document says of a route: its body, its answer, and the problems that it can have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from busway.contract.problems import MEDIA_TYPE, Problem
from busway.contract.schemas import Schema, ref

JSON = "application/json"

Shape = type[msgspec.Struct]

PROBLEMS = {
    400: ("BadRequest", "The body or a parameter cannot be read."),
    401: ("Unauthorized", "A key is missing, or it is unknown, revoked or expired."),
    403: ("Forbidden", "The key lacks the scope, or a page of an origin that is not allowed asks."),
    404: ("NotFound", "It does not exist."),
    408: ("RequestTimeout", "The request stopped arriving."),
    409: ("Conflict", "Its state does not allow this."),
    410: ("Gone", "The results after this cursor are no longer kept, or the cursor is of another log."),
    413: ("TooLarge", "The body, or an event in it, is larger than the gateway takes."),
    415: ("UnsupportedMediaType", "The media type or the encoding of the body is not supported."),
    421: ("Misdirected", "A gateway without keys answers only to requests for this machine, not to proxies."),
    422: ("Invalid", "A field or a parameter is not valid, or it is unknown."),
    503: ("Unavailable", "The gateway starts, stops, is overloaded or cannot store anything at the moment."),
}
"""The problems of several routes, by status: a name and a description."""


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
        shape: the answer; one of several; or none.
        description: of the answer.
        status: of the answer.
        example: of the answer.
        problems: problems that it can have, by status, in its own words; None: those of `PROBLEMS`.
            The document adds those that every route can have.
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
    """Return the `openapi_extra` of a route that reads its body itself."""
    content = {JSON: {"schema": schema or ref(shape), "example": example}}
    return {"requestBody": {"required": True, "content": content}}


def _schema(shape: Shape | tuple[Shape, ...]) -> Schema:
    return {"anyOf": [ref(each) for each in shape]} if isinstance(shape, tuple) else ref(shape)
