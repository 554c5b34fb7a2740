"""The stages of a running gateway, as the routes call them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Protocol

from fastapi import Depends, Request

from app.api.access import Gate
from app.dispatch.changes import Changes
from app.dispatch.dispatcher import Dispatcher
from app.dispatch.placement import Placement
from app.dispatch.registry import Registry
from app.dispatch.trials import Trials
from app.ingest.publisher import Publisher
from app.results.recorder import Recorder
from app.settings import Settings
from app.store.base import Commits, Reader
from app.subscribers.hub import Hub
from app.subscribers.sse import StreamShell
from app.subscribers.websocket import WebSocketShell
from app.workers.base import Workers


@dataclass(frozen=True)
class Stages:
    """Every part that a request may call, in the order of the way through the house."""

    settings: Settings
    clock: Callable[[], int]
    started_at: int
    gate: Gate
    publisher: Publisher
    commits: Commits
    reader: Reader
    registry: Registry
    changes: Changes
    placement: Placement
    dispatcher: Dispatcher
    trials: Trials
    workers: Workers
    recorder: Recorder
    hub: Hub
    subscribe: WebSocketShell
    stream: StreamShell


class House(Protocol):
    """What has the stages: None while the gateway starts."""

    stages: Stages | None


def _stages(request: Request) -> Stages:
    stages: Stages = request.scope["busway.stages"]
    return stages


Here = Annotated[Stages, Depends(_stages)]
"""The stages, as a parameter of a route."""
