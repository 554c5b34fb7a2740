"""The service itself: health, status and its documents."""

from __future__ import annotations

import shutil
from typing import Any

import msgspec
from fastapi import APIRouter, Request, Response
from starlette.responses import RedirectResponse

from busway.gateway.api import answers, problems
from busway.gateway.api.access import needs
from busway.gateway.api.answers import when
from busway.gateway.api.schema import answers as described
from busway.gateway.api.stages import Here, Stages
from busway.gateway.errors import STARTING, BuswayError, Unavailable
from busway.gateway.subscribers import asyncapi
from busway.version import __version__

router = APIRouter(tags=["service"])


@router.get("/", include_in_schema=False)
async def root() -> Response:
    """Redirect to the docs page."""
    return RedirectResponse("/docs")


class UpgradeRequired(BuswayError):
    """It is a WebSocket (RFC 9110, section 15.5.22)."""

    status, title = 426, "Upgrade required"


@router.get("/v1/subscribe", include_in_schema=False)
async def subscribe_is_a_websocket() -> Response:
    """Tell those who open it like a page what it is."""
    refusal = problems.response(UpgradeRequired("/v1/subscribe is a WebSocket: see /asyncapi.json"))
    refusal.headers.update({"Upgrade": "websocket", "Connection": "Upgrade"})
    return refusal


@router.get("/healthz", summary="Is the process alive", responses=described(None, "it is"))
async def healthz() -> Response:
    """Always 200 while the process answers."""
    return answers.json({"status": "alive"})


@router.get("/readyz", summary="Can it take work", responses=described(None, "it can"))
async def readyz(request: Request) -> Response:
    """200 once events are taken, 503 before, while draining, and while nothing can be stored.

    `trouble` names what keeps handlers from running though events are taken: files that do not import,
    workers or a zygote that die as soon as they are started. `/v1/status` has the details.
    """
    stages: Stages | None = request.scope["busway.stages"]
    obstacle = _obstacle(stages)
    if obstacle or stages is None:
        return problems.response(Unavailable(obstacle or STARTING))
    return answers.json({"status": "ready", "trouble": _trouble(stages)})


def _trouble(stages: Stages) -> list[str]:
    found = [f"{broken['file']} does not import" for broken in stages.registry.broken_files()]
    workers = stages.workers.status()
    if workers["zygote"]["error"]:
        found.append(f"the zygote cannot be started: {workers['zygote']['error'].splitlines()[0]}")
    for name, pool in workers["pools"].items():
        if pool.get("crash_loop"):
            found.append(f"workers of the pool {name} die before they have an attempt")
    return found


def _obstacle(stages: Stages | None) -> str | None:
    if stages is None:
        return STARTING
    if stages.publisher.closed:
        return stages.publisher.closed
    return None if stages.commits.healthy else "the store takes nothing at the moment: see the log"


@router.get(
    "/v1/status",
    summary="How the service is doing",
    dependencies=needs("handlers:read"),
    responses=described(None, "pools, workers, queues, subscribers, disk"),
)
async def status(here: Here) -> Response:
    """What runs where, what waits, who listens, and files that do not import, with their tracebacks."""
    counts = await here.reader.counts()
    database = here.settings.database
    return answers.json(
        {
            "version": __version__,
            "state": _obstacle(here) or "ready",
            "started_at": when(here.started_at),
            "access": "open on loopback: no key was made" if here.gate.open else "by key",
            "workers": here.workers.status(),
            "committer": {"pid": here.commits.pid, "healthy": here.commits.healthy},
            "queues": {
                "publishes_and_outcomes": here.commits.backlog,
                "handlers": [
                    _queue(here, entry.handler.id, entry.handler.name, counts)
                    for entry in here.registry.live()
                ],
            },
            "files_that_do_not_import": here.registry.broken_files(),
            "subscribers": here.hub.status(),
            "disk": {
                "database": str(database),
                "bytes": sum(_size(database.with_name(database.name + end)) for end in ("", "-wal")),
                "free": shutil.disk_usage(database.absolute().parent).free,
            },
        }
    )


def _queue(here: Stages, id_: int, name: str, counts: dict[int, dict[str, int]]) -> dict[str, Any]:
    return {"handler": name, "runs": counts.get(id_, {}), "waiting_in_memory": here.dispatcher.waiting(id_)}


def _size(path: Any) -> int:
    return path.stat().st_size if path.exists() else 0


@router.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> Response:
    """Serve the OpenAPI document."""
    return Response(msgspec.json.encode(request.app.openapi()), media_type="application/json")


@router.get(
    "/asyncapi.json", summary="The AsyncAPI document of /v1/subscribe", responses=described(None, "it")
)
async def read_asyncapi() -> Response:
    """What goes over the WebSocket, in AsyncAPI 3."""
    return answers.json(asyncapi.document())
