"""Errors as RFC 9457 problem documents."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Scope

from busway.gateway.errors import BadRequest, BuswayError, Invalid, NotFound

MEDIA_TYPE = "application/problem+json"
METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")


def document(error: BuswayError) -> dict[str, Any]:
    """Return the members of an error's problem document."""
    body: dict[str, Any] = {
        "type": "urn:busway:problem:" + error.title.lower().replace(" ", "-"),
        "title": error.title,
        "status": error.status,
        "detail": error.detail,
    }
    if error.errors:
        body["errors"] = error.errors
    return body


def headers(error: BuswayError) -> dict[str, str]:
    """Return the headers that belong to an error."""
    extra: dict[str, str] = {}
    if error.retry_after is not None:
        extra["Retry-After"] = str(error.retry_after)
    if error.status == 401:
        extra["WWW-Authenticate"] = 'Bearer realm="busway"'
    return extra


def response(error: BuswayError) -> Response:
    """Return an error as a response."""
    return Response(
        msgspec.json.encode(document(error)),
        status_code=error.status,
        media_type=MEDIA_TYPE,
        headers=headers(error),
    )


def install(app: FastAPI) -> None:
    """Have every error of the app answered as a problem document."""

    @app.exception_handler(BuswayError)
    async def ours(_: Request, error: BuswayError) -> Response:
        return response(error)

    @app.exception_handler(RequestValidationError)
    async def bad_parameter(_: Request, error: RequestValidationError) -> Response:
        places = [{"loc": list(e["loc"]), "msg": e["msg"]} for e in error.errors()]
        first = places[0]
        where = ".".join(str(part) for part in first["loc"])
        return response(Invalid(f"{where}: {first['msg']}", errors=places))

    @app.exception_handler(HTTPException)
    async def theirs(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404:
            return response(NotFound(f"there is no {request.url.path}: /docs lists what there is"))
        if error.status_code == 405:
            return _not_for(app, request)
        plain = BadRequest(f"{request.url.path}: {error.detail}")
        plain.status, plain.title = error.status_code, str(error.detail)
        answer = response(plain)
        answer.headers.update(error.headers or {})
        return answer


def _not_for(app: FastAPI, request: Request) -> Response:
    """Say which methods there are: each route knows only its own."""
    allowed = ", ".join(m for m in METHODS if _takes(app, request.scope, "GET" if m == "HEAD" else m))
    error = BadRequest(f"{request.method} is not for {request.url.path}, which takes {allowed}: see /docs")
    error.status, error.title = 405, "Method not allowed"
    answer = response(error)
    answer.headers["Allow"] = allowed
    return answer


def _takes(app: FastAPI, scope: Scope, method: str) -> bool:
    asked = {**scope, "method": method}
    return any(route.matches(asked)[0] is Match.FULL for route in app.routes)
