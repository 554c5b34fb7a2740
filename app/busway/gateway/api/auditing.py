"""Who asks for a change, for the audit log."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from fastapi import Query, Request

from busway.gateway.access.proxies import client_address
from busway.gateway.access.scopes import Access
from busway.gateway.api.stages import Stages
from busway.gateway.errors import Unavailable
from busway.gateway.log_limit import AUDIT
from busway.gateway.store.port.audit import ACTIONS, Entry, Record, acting

log = logging.getLogger(AUDIT)

DRY_RUN = "dry_run"
DryRun = Annotated[
    bool,
    Query(description="Only check the request: 204 if it would change something, else the same error."),
]


def audits(action: str) -> Callable[..., AsyncIterator[None]]:
    """Return a dependency: what the route changes is stored with an entry of the audit log, and logged."""
    assert action in ACTIONS, action  # noqa: S101 - of the routes, at import

    async def act(request: Request, dry_run: DryRun = False) -> AsyncIterator[None]:
        access: Access = request.scope["busway.access"]
        entry = entry_of(request, access, action, next(map(str, request.path_params.values()), None))
        with acting(entry, dry_run=dry_run) as who:
            yield
        if who.changed:
            log_entry(entry, who.object)

    return act


def entry_of(request: Request, access: Access, action: str, object_: str | None = None) -> Entry:
    """Return the entry for something that this request does."""
    stages: Stages = request.scope["busway.stages"]
    return Entry(
        actor=access.actor,
        name=access.name or None,
        address=client_address(request.scope) or None,
        action=action,
        object=object_,
        time=stages.clock(),
    )


async def record(request: Request, access: Access, action: str, **details: Any) -> None:
    """Log and store an entry about something that changes nothing in the store, such as a sign-in.

    While nothing can be stored it is only logged: people must be able to look at what is wrong.
    """
    stages: Stages = request.scope["busway.stages"]
    entry = entry_of(request, access, action)
    log_entry(entry, None)
    with contextlib.suppress(Unavailable):
        await stages.commits.change(Record(entry=entry, details=details))


def log_entry(entry: Entry, object_: str | None) -> None:
    """Write an entry to the log."""
    log.info(
        "%s%s by %s%s from %s",
        entry.action,
        f" {object_}" if object_ else "",
        entry.actor,
        f" ({entry.name})" if entry.name else "",
        entry.address or "this machine",
        extra={"action": entry.action, "object": object_, "actor": entry.actor, "address": entry.address},
    )
