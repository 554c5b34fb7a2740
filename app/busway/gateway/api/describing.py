"""Builds the OpenAPI description of a route: its body, its answer and its problems."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from busway.contract.problems import MEDIA_TYPE, BadField, Problem
from busway.contract.schemas import Schema, ref
from busway.gateway.api.examples import ANSWERS
from busway.gateway.door.cycle import late_body
from busway.gateway.door.deadlines import TIMES
from busway.gateway.errors import (
    STARTING,
    BadCursor,
    BadRequest,
    BuswayError,
    Conflict,
    Forbidden,
    Gone,
    Invalid,
    Misdirected,
    NotFound,
    TooLarge,
    TooManyRequests,
    Unauthorized,
    Unavailable,
    UnsupportedMediaType,
)

JSON = "application/json"
EXAMPLE_TEXT = "x-example"  # an example as JSON text: FastAPI would remove what is null in it

Shape = type[msgspec.Struct]


def problem_response(description: str, error: BuswayError) -> Schema:
    """Return a response that is a problem document, with an example."""
    content = {"schema": ref(Problem), "example": msgspec.json.decode(error.document())}
    return {"description": description, "content": {MEDIA_TYPE: content}}


_BODY = BadField(["body", "timeout"], "timeout must be more than 0 and at most 86400 seconds")
_QUERY = BadField(["query", "limit"], "Input should be less than or equal to 1000")
_UNKNOWN = BadField(["query", "verbose"], "unknown parameter 'verbose': this operation has none")

PROBLEMS: dict[int, tuple[str, str, BuswayError]] = {
    400: (
        "BadRequest",
        "The body or a parameter is malformed.",
        BadRequest("the body is not valid JSON: unexpected end of data at byte 17"),
    ),
    401: (
        "Unauthorized",
        "The API key or token is missing, unknown, revoked or expired.",
        Unauthorized(
            "missing API key: send `Authorization: Bearer KEY` (`busway keys create NAME` creates one)"
        ),
    ),
    403: (
        "Forbidden",
        "The API key lacks the scope, or the origin of the page is not allowed.",
        Forbidden("this API key lacks the scope 'admin': use a key that has it"),
    ),
    404: (
        "NotFound",
        "The object does not exist.",
        NotFound("run 99 does not exist, or was deleted after --retention: GET /v1/runs lists runs"),
    ),
    408: (
        "RequestTimeout",
        "The request did not arrive completely in time.",
        late_body(TIMES),
    ),
    409: (
        "Conflict",
        "The state of the object does not allow this.",
        Conflict("run 3 is succeeded: only unfinished runs can be cancelled"),
    ),
    410: (
        "Gone",
        "The results after this cursor were deleted, or the cursor belongs to another log.",
        Gone("the cursor belongs to another log: start again after 'earliest' or 'latest'"),
    ),
    413: (
        "TooLarge",
        "The body, or an event in it, exceeds the limit.",
        TooLarge("the body is larger than 33554432 bytes: send less at a time"),
    ),
    415: (
        "UnsupportedMediaType",
        "The media type or the encoding of the body is not supported.",
        UnsupportedMediaType("send Content-Type: application/json, not text/plain"),
    ),
    421: (
        "Misdirected",
        "A gateway without API keys accepts only direct requests to a loopback address.",
        Misdirected("this gateway has no API keys and accepts only the host localhost, not 'example.com'"),
    ),
    422: ("Invalid", "A field or a parameter is invalid or unknown.", Invalid.of([_BODY])),
    429: (
        "TooManyRequests",
        "The API key or the address is over one of its limits. `Retry-After` says when to try again.",
        TooManyRequests(
            "too many requests of this key: the limit is 100 requests in 1 s: try again in a second"
        ),
    ),
    503: (
        "Unavailable",
        "The gateway is starting, stopping or overloaded, or cannot write to its database.",
        Unavailable(STARTING),
    ),
}
"""The name, the description and an example of problems that several routes have, by status."""

OTHERS = {
    "Problem": problem_response(
        "Any other problem: a malformed HTTP message, or an internal error, which the gateway logs.",
        BuswayError("internal error: see the gateway's log"),
    ),
    "BadParameter": problem_response(
        "A parameter is malformed.",
        BadRequest("after must be the `next` of the previous page, not 'latest'"),
    ),
    "BadCursor": problem_response(
        "A parameter is malformed.",
        BadCursor('malformed cursor: use the cursor of an item, "latest" or "earliest"'),
    ),
    "InvalidParameter": problem_response("A parameter is invalid or unknown.", Invalid.of([_QUERY])),
    "UnknownParameter": problem_response("A parameter is invalid or unknown.", Invalid.of([_UNKNOWN])),
}
"""Responses for problems that no status alone selects, by name."""

Trouble = tuple[str, str]
"""The description of a problem, and an example of its `detail`."""

NO_HANDLER: Trouble = (
    "The handler does not exist.",
    "there is no handler 'prise': GET /v1/handlers lists them",
)


def problem_name(code: int, parameters: set[str], *, has_body: bool) -> str:
    """Return the name of the response for a problem of an operation with these parameters."""
    if code == 400 and not has_body:
        return "BadParameter" if "limit" in parameters and "types" not in parameters else "BadCursor"
    if code == 422 and not has_body:
        return "InvalidParameter" if "limit" in parameters else "UnknownParameter"
    return PROBLEMS[code][0]


def shared_responses() -> dict[str, Schema]:
    """Return the responses for problems that several routes have, by name."""
    return OTHERS | {name: problem_response(text, error) for name, text, error in PROBLEMS.values()}


def reference(name: str) -> Schema:
    """Return a reference to a response that several routes have."""
    return {"$ref": f"#/components/responses/{name}"}


def answers(
    shape: Shape | tuple[Shape, ...] | None,
    description: str,
    *,
    status: int = 200,
    example: Any = None,
    problems: Mapping[int, Trouble | None] | None = None,
    others: Mapping[str, Shape] | None = None,
) -> Any:
    """Return the `responses` of a route.

    Args:
        shape: the type of the answer, a tuple of alternatives, or None.
        description: the description of the answer.
        status: the status of the answer.
        example: an example of the answer, if it is not the usual one of its type.
        problems: problems by status. None: as in `PROBLEMS`. The document adds the problems that every route
            can have.
        others: types of the answer under other media types.
    """
    answer: Schema = {"description": description}
    if shape is not None:
        first = shape[0] if isinstance(shape, tuple) else shape
        text = msgspec.json.encode(example or ANSWERS[first]).decode()
        answer["content"] = {JSON: {"schema": _schema(shape), EXAMPLE_TEXT: text}}
        answer["content"] |= {media_type: _content(other) for media_type, other in (others or {}).items()}
    return {status: answer, **{code: _problem(code, trouble) for code, trouble in (problems or {}).items()}}


def _content(shape: Shape) -> Schema:
    return {"schema": ref(shape), EXAMPLE_TEXT: msgspec.json.encode(ANSWERS[shape]).decode()}


def _problem(code: int, trouble: Trouble | None) -> Schema:
    name, _, example = PROBLEMS[code]
    if trouble is None:
        return reference(name)
    description, detail = trouble
    return problem_response(description, type(example)(detail))


def body(shape: Shape, example: Any) -> dict[str, Any]:
    """Return the `openapi_extra` of a route that decodes its body itself."""
    return bodies({JSON: (ref(shape), example)})


def bodies(forms: Mapping[str, tuple[Schema, Any]]) -> dict[str, Any]:
    """Return the same for a body of several media types: the schema of each, and an example."""
    content = {name: {"schema": schema, "example": example} for name, (schema, example) in forms.items()}
    return {"requestBody": {"required": True, "content": content}}


def _schema(shape: Shape | tuple[Shape, ...]) -> Schema:
    return {"anyOf": [ref(each) for each in shape]} if isinstance(shape, tuple) else ref(shape)
