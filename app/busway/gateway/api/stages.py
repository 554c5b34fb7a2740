"""The stages of a running gateway, as the routes call them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Protocol

from fastapi import Depends, Request

from busway.gateway.access.gate import Gate
from busway.gateway.access.keysfile import KeysFile
from busway.gateway.access.signers import IssuerKeys
from busway.gateway.attempts.rates import Rates
from busway.gateway.attempts.recorder import Recorder
from busway.gateway.budget import Budget, Budgets
from busway.gateway.dispatch.assigned import Assigned
from busway.gateway.dispatch.changes import HandlerChanges
from busway.gateway.dispatch.dispatcher import Dispatcher
from busway.gateway.dispatch.placement import Placement
from busway.gateway.dispatch.registry import Registry
from busway.gateway.dispatch.replays import Replays
from busway.gateway.dispatch.schedules import Schedules
from busway.gateway.dispatch.trials import Trials
from busway.gateway.door.deadlines import Times
from busway.gateway.executors.port import Workers
from busway.gateway.ingest.codecs.port import Choose
from busway.gateway.ingest.publisher import Publisher
from busway.gateway.limits import Limits
from busway.gateway.nodes.port import Nodes
from busway.gateway.settings import Settings
from busway.gateway.store.port.commits import Commits
from busway.gateway.store.port.database import Database
from busway.gateway.store.port.reader import Reader
from busway.gateway.subscribers.hub import Hub
from busway.gateway.subscribers.sse import StreamShell
from busway.gateway.subscribers.waits import Waits
from busway.gateway.subscribers.websocket import WebSocketShell
from busway.gateway.tls import Certificate


@dataclass(frozen=True)
class Stages:
    """The parts of a running gateway that requests call, in the order of the data flow."""

    settings: Settings
    clock: Callable[[], int]
    started_at: int
    gate: Gate
    token_keys: IssuerKeys
    keys_file: KeysFile | None
    publisher: Publisher
    choose_codec: Choose
    database: Database
    nodes: Nodes
    commits: Commits
    reader: Reader
    registry: Registry
    changes: HandlerChanges
    placement: Placement
    dispatcher: Dispatcher
    trials: Trials
    replays: Replays
    schedules: Schedules
    workers: Workers
    recorder: Recorder
    rates: Rates
    assigned: Assigned
    hub: Hub
    subscribe: WebSocketShell
    stream: StreamShell
    waits: Waits
    answers: Budget
    bodies: Budget
    limits: Limits
    times: Times
    certificate: Certificate | None = None
    spans: Mapping[str, int] | None = None


class Gateway(Protocol):
    """A gateway. `stages` is None while it starts."""

    stages: Stages | None
    budgets: Budgets
    limits: Limits
    times: Times


async def current_handlers(request: Request) -> None:
    """Wait until this node has the handlers that the store has now. Another node may have changed them."""
    stages: Stages = request.scope["busway.stages"]
    await stages.nodes.current()


async def _stages(request: Request) -> Stages:  # FastAPI would call a plain function in a thread
    stages: Stages = request.scope["busway.stages"]
    return stages


StagesDep = Annotated[Stages, Depends(_stages)]
"""Parameter type of a route: FastAPI injects the stages."""
