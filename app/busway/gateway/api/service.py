"""Routes for health, status and the API documents."""

from __future__ import annotations

import asyncio

import msgspec
from fastapi import APIRouter, Request, Response

from busway.contract import service as shapes
from busway.domain.handler import Handler
from busway.domain.text import printable
from busway.domain.times import SECOND
from busway.gateway.access.scopes import Access
from busway.gateway.api import answers, problems
from busway.gateway.api.access import needs
from busway.gateway.api.answers import when
from busway.gateway.api.describing import JSON
from busway.gateway.api.describing import answers as described
from busway.gateway.api.preparing import Prepared
from busway.gateway.api.stages import Stages, StagesDep
from busway.gateway.errors import STARTING, Unavailable, UpgradeRequired
from busway.gateway.nodes.port import NodeStatus
from busway.gateway.subscribers import asyncapi
from busway.version import __version__

router = APIRouter(tags=["service"])

_ASYNCAPI = {
    "schema": {"type": "object"},
    "example": {"asyncapi": "3.0.0", "info": {"title": "Busway", "version": __version__}, "channels": {}},
}


@router.get("/v1/subscribe", include_in_schema=False)
async def subscribe_is_a_websocket() -> Response:
    """Answer 426 to a request without an upgrade."""
    refusal = problems.response(UpgradeRequired("/v1/subscribe is a WebSocket: see /asyncapi.json"))
    refusal.headers.update({"Upgrade": "websocket", "Connection": "Upgrade"})
    return refusal


@router.get("/healthz", summary="Liveness probe", responses=described(shapes.Health, "The process is alive."))
async def check_liveness() -> Response:
    """Always answers 200."""
    return answers.json(shapes.Health("alive"))


_HIDDEN = "this node cannot take events now: its log says why, and so does this page to those who send a key"
"""The reason names files and servers."""


@router.get(
    "/readyz",
    summary="Readiness probe",
    responses=described(shapes.Readiness, "The gateway accepts events.", problems={503: None}),
)
async def check_readiness(request: Request) -> Response:
    """Answers 200 while the gateway accepts events. Answers 503 while it starts, drains or cannot write.

    One node of several answers 503, too, while it cannot follow the others, and a node with the role `worker`
    while no worker can run an attempt.

    `trouble` lists problems that stop handlers although events are accepted: files that cannot be imported,
    workers or a zygote that cannot be started or die at start, no node that leads or has workers. Files are
    named to those who may read handlers. `GET /v1/status` has the details.
    """
    stages: Stages | None = request.scope["busway.stages"]
    obstacle = _obstacle(stages)
    access: Access | None = request.scope.get("busway.access")
    if stages is None or obstacle:
        hidden = stages is not None and access is None and not stages.publisher.closed
        return problems.response(Unavailable(_HIDDEN if hidden else obstacle or STARTING))
    named = access is not None and access.may("handlers:read")
    return answers.json(shapes.Readiness("ready", _trouble(stages, named=named)))


def _trouble(stages: Stages, *, named: bool) -> list[str]:
    """Return what is wrong. `named`: the request may read the names of files, and reasons with them."""
    broken = [file.file for file in stages.registry.broken_files()]
    found = [stages.registry.fault_of(file) for file in broken if named]
    if broken and not named:
        found.append(f"handler files that do not import: {len(broken)} (GET /v1/status names them)")
    workers = stages.workers.status()
    if workers["zygote"]["error"]:
        reason = workers["zygote"]["error"].splitlines()[0] if named else "GET /v1/status says why"
        found.append(f"the zygote cannot be started: {reason}")
    for name, pool in workers["pools"].items():
        if pool.get("error"):
            found.append(f"workers of the pool {name} cannot be started or reached: {pool['error']}")
        elif pool.get("crash_loop"):
            found.append(f"workers of the pool {name} die before they run an attempt")
    cell = stages.nodes.status()
    if not cell.led:
        found.append("no node leads: runs wait until one does")
    if not any(any(node.capacity.values()) for node in cell.nodes):
        found.append("no node has workers: runs wait until one joins")
    return found


def _keys_file(stages: Stages) -> shapes.KeysFile | None:
    file = stages.keys_file
    return None if file is None else shapes.KeysFile(str(file.path), len(file.keys), file.error)


def _access_text(stages: Stages) -> str:
    if stages.gate.open:
        return "open on loopback: no API key exists"
    return "by key or token" if stages.token_keys.source else "by key"


def _obstacle(stages: Stages | None) -> str | None:
    if stages is None:
        return STARTING
    if stages.publisher.closed:
        return stages.publisher.closed
    if stages.commits.obstacle is not None:
        return f"the database cannot be written: {stages.commits.obstacle}"
    cell = stages.nodes.status()
    if cell.problem is not None:
        return f"this node cannot follow the others: {cell.problem}"
    if stages.settings.role == "worker" and (dead := _dead_pools(stages)):
        return f"no worker can run an attempt: {dead}"
    return None


def _dead_pools(stages: Stages) -> str | None:
    """Return why no worker of this node is ready, None if one is or will be."""
    pools = stages.workers.status()["pools"].values()
    if any(worker["state"] == "ready" for pool in pools for worker in pool["workers"]):
        return None
    for pool in pools:
        if pool.get("error"):
            return str(pool["error"])
        if pool.get("crash_loop"):
            return "workers die before they run one"
    return None


@router.get(
    "/v1/status",
    summary="Service status",
    dependencies=needs("subscribe", "handlers:read", unlimited=True),
    responses=described(shapes.Status, "The status."),
)
async def read_status(stages: StagesDep) -> Response:
    """Returns pools, workers, queues, subscribers, disk use, and files that cannot be imported."""
    counts, oldest, sizes = await asyncio.gather(
        stages.reader.counts(),
        stages.reader.oldest(stages.clock()),
        asyncio.to_thread(stages.database.sizes),
    )
    cell = stages.nodes.status()
    status = shapes.Status(
        version=__version__,
        state=_obstacle(stages) or "ready",
        started_at=when(stages.started_at),
        access=_access_text(stages),
        tokens=shapes.Tokens(stages.token_keys.source, len(stages.token_keys), stages.token_keys.error)
        if stages.token_keys.source
        else None,
        keys_file=_keys_file(stages),
        workers=msgspec.convert(
            {**stages.workers.status(), "parked": stages.dispatcher.parked}, shapes.Workers
        ),
        nodes=[_node(node, cell.term) for node in cell.nodes],
        broker=_broker(stages),
        committer=shapes.Committer(
            stages.commits.pid, stages.commits.healthy, sizes.log, stages.commits.log_blocked
        ),
        queues=shapes.Queues(
            stages.commits.backlog,
            [_queue(stages, entry.handler, counts, oldest) for entry in stages.registry.live()],
        ),
        files_that_do_not_import=stages.registry.broken_files(),
        subscribers=msgspec.convert(stages.hub.status(), shapes.Subscribers),
        disk=shapes.Disk(printable(stages.database.shown), sizes.total, sizes.free),
    )
    return answers.json(status)


def _node(node: NodeStatus, term: int) -> shapes.Node:
    return shapes.Node(
        id=node.id,
        name=printable(node.name),
        role=node.role,
        version=node.version,
        code=node.code or None,
        leader=node.leader,
        term=term if node.leader else None,
        this=node.this,
        started_at=when(node.opened_at),
        capacity=node.capacity,
        running=node.running,
        lag=node.lag,
    )


def _broker(stages: Stages) -> shapes.Broker | None:
    found = stages.nodes.broker()
    return None if found is None else shapes.Broker(**msgspec.structs.asdict(found))


def _queue(
    stages: Stages, handler: Handler, counts: dict[int, dict[str, int]], oldest: dict[int, int]
) -> shapes.HandlerQueue:
    since = oldest.get(handler.id)
    return shapes.HandlerQueue(
        handler.name,
        counts.get(handler.id, {}),
        stages.dispatcher.waiting(handler.id),
        None if since is None else max(0, stages.clock() - since) / SECOND,
    )


@router.get(
    "/v1/rates",
    summary="Rates of the last ten minutes",
    dependencies=needs("subscribe", "handlers:read", unlimited=True),
    responses=described(shapes.Rates, "The samples."),
)
async def read_rates(stages: StagesDep) -> Response:
    """Returns how many events, results and failures came in each few seconds of the last ten minutes.

    They are kept in memory: after a start they begin again.
    """
    return answers.json(
        shapes.Rates(
            [
                shapes.RateSample(
                    when(sample.time),
                    round(sample.seconds, 3),
                    sample.events,
                    sample.results,
                    sample.failures,
                )
                for sample in stages.rates.samples
            ]
        )
    )


@router.get("/openapi.json", include_in_schema=False)
async def openapi(request: Request) -> Response:
    """Serve the OpenAPI document."""
    prepared: Prepared[bytes] = request.app.state.openapi
    return Response(await prepared.get(), media_type="application/json")


@router.get(
    "/asyncapi.json",
    summary="AsyncAPI document",
    responses={200: {"description": "The document.", "content": {JSON: _ASYNCAPI}}},
)
async def read_asyncapi() -> Response:
    """Returns the AsyncAPI 3 document of the WebSocket and the event stream."""
    return Response(await _DOCUMENT.get(), media_type="application/json")


_DOCUMENT = Prepared(lambda: msgspec.json.encode(asyncapi.document()))
