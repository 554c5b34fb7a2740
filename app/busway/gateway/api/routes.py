"""All routes of the API."""

from __future__ import annotations

import msgspec
from fastapi import Depends, FastAPI

from busway.gateway.api import (
    audit,
    console,
    docs_page,
    document,
    events,
    handlers,
    hooks,
    keys,
    metrics,
    problems,
    recipients,
    replays,
    results,
    runs,
    schedules,
    service,
    sessions,
    sources,
    streaming,
    subscribers,
    subscriptions,
    tickets,
    trials,
    uploads,
)
from busway.gateway.api.answers import known_parameters
from busway.gateway.api.preparing import Prepared

_ROUTES = (
    events, recipients, handlers, trials, replays, runs, results, streaming, subscribers, subscriptions,
    service, metrics, tickets, sources, hooks, schedules, uploads, audit, sessions, keys,
)  # fmt: skip


def describe(rest: FastAPI) -> FastAPI:
    """Add all routes, error handlers and documents to an app. `busway openapi` uses it too."""
    for routes in _ROUTES:
        rest.include_router(
            routes.router,
            dependencies=[Depends(known_parameters)],
            generate_unique_id_function=lambda route: route.name,
        )
    console.install(rest)
    docs_page.install(rest)
    problems.install(rest)
    rest.openapi = lambda: document.openapi(rest)  # type: ignore[method-assign] # FastAPI's own way to extend it
    rest.state.openapi = Prepared(lambda: msgspec.json.encode(rest.openapi()))
    return rest
