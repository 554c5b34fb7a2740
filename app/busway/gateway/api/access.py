"""FastAPI dependencies that check the scope of a request."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import Depends, Request

from busway.gateway.access.gate import check_scope
from busway.gateway.access.scopes import Access
from busway.gateway.errors import Unauthorized


def holder(request: Request) -> Access:
    """Return the access of the request. As a dependency, it admits every valid key.

    Raises:
        Unauthorized: the request has no valid key.
    """
    access = request.scope["busway.access"]
    if not isinstance(access, Access):
        raise Unauthorized("no API key: send `Authorization: Bearer bw_…`")
    return access


def need(scope: str) -> Callable[[Request], Access]:
    """Return a dependency that admits only keys with a scope."""

    def check(request: Request) -> Access:
        return check_scope(holder(request), scope)

    return check


def needs(scope: str) -> list[Depends]:  # type: ignore[valid-type] # fastapi's Depends is a function to mypy
    """Return the `dependencies` of a route that needs a scope."""
    return [Depends(need(scope))]
