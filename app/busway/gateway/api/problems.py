"""Answers errors as RFC 9457 problem documents, and unknown addresses as a page to browsers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match
from starlette.types import Scope

from busway.contract.problems import MEDIA_TYPE, BadField
from busway.domain.pattern import PatternError
from busway.gateway.api import pages
from busway.gateway.errors import BadPattern, BadRequest, BuswayError, Invalid, NotFound
from busway.gateway.store.port.audit import WouldChange

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
    """Add exception handlers that answer every error of the app as a problem document, and dry runs."""

    @app.exception_handler(BuswayError)
    async def ours(_: Request, error: BuswayError) -> Response:
        return response(error)

    @app.exception_handler(Exception)  # it is raised again, and logged, when it is answered
    async def fault(_: Request, __: Exception) -> Response:
        return response(BuswayError("internal error: see the gateway's log"))

    @app.exception_handler(WouldChange)
    async def dry_run(_: Request, __: WouldChange) -> Response:
        return Response(status_code=204)

    @app.exception_handler(RequestValidationError)
    async def bad_parameter(_: Request, error: RequestValidationError) -> Response:
        found = error.errors()
        patterns = all(isinstance(_cause(bad), PatternError) for bad in found)
        return response(
            (BadPattern if patterns else Invalid).of([bad_field(bad["loc"], bad) for bad in found])
        )

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


def bad_field(loc: Iterable[str | int], error: Mapping[str, Any]) -> BadField:
    """Return an error of pydantic as an invalid field."""
    return BadField([*loc], str(_cause(error) or error["msg"]))


def _cause(error: Mapping[str, Any]) -> object:
    """Return the exception of a check of ours, None if pydantic itself refused the value."""
    return error.get("ctx", {}).get("error")


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
