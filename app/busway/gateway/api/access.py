"""FastAPI dependencies that check the scope of a request."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated

from fastapi import Depends, Request

from busway.gateway.access.gate import check_scope
from busway.gateway.access.scopes import Access
from busway.gateway.api.auditing import audits
from busway.gateway.errors import Forbidden, Unauthorized


def holder(request: Request) -> Access:
    """Return the access of the request.

    Raises:
        Unauthorized: the request has no valid key.
    """
    access = request.scope["busway.access"]
    if not isinstance(access, Access):
        raise Unauthorized("no API key: send `Authorization: Bearer bw_…`")
    return access


async def _holder(request: Request) -> Access:  # FastAPI would call a plain function in a thread
    return holder(request)


HolderDep = Annotated[Access, Depends(_holder)]
"""Parameter type of a route: FastAPI injects the access of the request. It admits every valid key."""


def need(*scopes: str, unlimited: bool = False) -> Callable[[Request], Awaitable[Access]]:
    """Return a dependency that admits only keys with one of these scopes.

    `unlimited`: keys that are limited to type patterns are refused, too.
    """

    async def check(request: Request) -> Access:  # not in a thread, as above
        access = holder(request)
        if not any(map(access.may, scopes)):
            check_scope(access, scopes[0])
        if unlimited and access.types:
            raise Forbidden("this concerns all events: use a key that is not limited to type patterns")
        return access

    return check


def needs(*scopes: str, unlimited: bool = False, audit: str = "") -> list[Depends]:  # type: ignore[valid-type] # fastapi's Depends is a function to mypy
    """Return the `dependencies` of a route that needs one of these scopes. `unlimited` as for `need`.

    `audit`: what the route does, for the audit log.
    """
    found = [Depends(need(*scopes, unlimited=unlimited))]
    return [*found, Depends(audits(audit))] if audit else found
