"""The scope that a route needs, as FastAPI dependencies."""

from __future__ import annotations

from collections.abc import Callable

from fastapi import Depends, Request

from busway.gateway.access.gate import check_scope
from busway.gateway.access.scopes import Access
from busway.gateway.errors import Unauthorized


def holder(request: Request) -> Access:
    """Return who asks; a dependency that admits everybody with a key.

    Raises:
        Unauthorized: there is none.
    """
    access = request.scope["busway.access"]
    if not isinstance(access, Access):
        raise Unauthorized("send a key: Authorization: Bearer KEY")
    return access


def need(scope: str) -> Callable[[Request], Access]:
    """Return a dependency that admits only holders of a scope."""

    def check(request: Request) -> Access:
        return check_scope(holder(request), scope)

    return check


def needs(scope: str) -> list[Depends]:  # type: ignore[valid-type] # fastapi's Depends is a function to mypy
    """Return the dependencies of a route that needs a scope."""
    return [Depends(need(scope))]
