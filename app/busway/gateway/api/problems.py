"""Answers errors as RFC 9457 problem documents, and unknown addresses as a page to browsers."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Scope

from busway.contract.problems import MEDIA_TYPE, BadField
from busway.gateway.api import pages
from busway.gateway.errors import BadRequest, BuswayError, Invalid, NotFound

METHODS = ("DELETE", "GET", "HEAD", "PATCH", "POST", "PUT")


def response(error: BuswayError) -> Response:
    """Return an error as a response."""
    return Response(
        error.document(),
        status_code=error.status,
        media_type=MEDIA_TYPE,
        headers=error.headers(),
    )


def install(app: FastAPI) -> None:
    """Add exception handlers that answer every error of the app as a problem document."""

    @app.exception_handler(BuswayError)
    async def ours(_: Request, error: BuswayError) -> Response:
        return response(error)

    @app.exception_handler(RequestValidationError)
    async def bad_parameter(_: Request, error: RequestValidationError) -> Response:
        return response(Invalid.of([BadField([*bad["loc"]], bad["msg"]) for bad in error.errors()]))

    @app.exception_handler(HTTPException)
    async def theirs(request: Request, error: HTTPException) -> Response:
        if error.status_code == 404 and pages.wants_page(request):
            return pages.not_found(request)
        if error.status_code == 404:
            return response(NotFound(f"{request.url.path} does not exist: /docs lists the operations"))
        if error.status_code == 405:
            return _not_for(app, request)
        plain = BadRequest(f"{request.url.path}: {error.detail}")
        plain.status, plain.title = error.status_code, str(error.detail)
        answer = response(plain)
        answer.headers.update(error.headers or {})
        return answer


def _not_for(app: FastAPI, request: Request) -> Response:
    """Return a 405 with all methods of the path. Each route knows only its own."""
    allowed = ", ".join(m for m in METHODS if _takes(app, request.scope, "GET" if m == "HEAD" else m))
    error = BadRequest(f"{request.url.path} does not support {request.method}: use {allowed}, see /docs")
    error.status, error.title = 405, "Method not allowed"
    answer = response(error)
    answer.headers["Allow"] = allowed
    return answer


def _takes(app: FastAPI, scope: Scope, method: str) -> bool:
    asked = {**scope, "method": method}
    return any(route.matches(asked)[0] is Match.FULL for route in app.routes)
