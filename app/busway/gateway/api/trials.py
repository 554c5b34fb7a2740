"""POST /v1/handlers/{name}/test: runs a handler once and returns the outcome."""

from __future__ import annotations

import asyncio
import base64
from typing import Any, TypedDict, cast

import msgspec
from fastapi import APIRouter, Depends, Request, Response

from busway.contract import handlers as shapes
from busway.contract.events import CloudEvent
from busway.domain.event import NewEvent
from busway.domain.run import Outcome
from busway.gateway.api import answers
from busway.gateway.api.access import needs
from busway.gateway.api.bodies import Disconnected
from busway.gateway.api.describing import NO_HANDLER, body
from busway.gateway.api.describing import answers as described
from busway.gateway.api.handlers import Name
from busway.gateway.api.stages import StagesDep, current_handlers
from busway.gateway.dispatch.trials import TrialResult
from busway.gateway.ingest.reading import read_member
from busway.gateway.turns import spread

router = APIRouter(prefix="/v1", tags=["handlers"], dependencies=[Depends(current_handlers)])

_GONE_AFTER = 0.5  # seconds between checks whether the client is still connected
_NO_TARGET = (
    "The handler's target is not in the handlers folder.",
    "the handler 'price' cannot be run: the handlers folder has no target orders:price",
)
_EXAMPLE = {"event": {"type": "order.created", "data": {"item": "book", "quantity": 2}}}


@router.post(
    "/handlers/{name}/test",
    summary="Test a handler",
    dependencies=needs("handlers:write"),
    openapi_extra=body(shapes.TrialIn, _EXAMPLE),
    responses=described(
        shapes.TrialAnswer,
        "The outcome of the attempt.",
        problems={404: NO_HANDLER, 409: _NO_TARGET},
    ),
)
async def test_handler(stages: StagesDep, name: Name, request: Request) -> Response:
    """Runs the handler once in its own worker, with its timeout and memory limit, even while it is paused.

    Nothing is stored: no event, no run, no result. The answer shows the events that it would publish. Side
    effects of its code are real. The event does not have to match the handler's patterns and filter.
    `matches` is true if it does.
    """
    body = await request.body()
    event = await spread(read_member(body, "event", stages.clock(), stages.settings.max_event_bytes))
    trial = asyncio.create_task(stages.trials.run(name, event))
    try:
        while not trial.done():
            await asyncio.wait([trial], timeout=_GONE_AFTER)
            if not trial.done() and await request.is_disconnected():
                raise Disconnected
        return answers.json(_answer(trial.result(), event))
    finally:
        trial.cancel()


def _answer(result: TrialResult, event: NewEvent) -> shapes.TrialAnswer:
    ended, trial = result.ended, result.trial
    succeeded = ended.outcome is Outcome.SUCCEEDED
    return shapes.TrialAnswer(
        outcome=ended.outcome,
        revision=result.entry.handler.revision,
        matches=result.entry.starts(event),
        **_value(ended.data if succeeded else None, binary=ended.binary),
        partials=[
            shapes.PartialValue(index=p.index, **_value(p.data, binary=p.binary)) for p in trial.partials
        ],
        partials_left_out=trial.left_out,
        published=cast("list[CloudEvent]", result.published if succeeded else []),
        published_left_out=result.published_left_out,
        error=answers.error(ended.error),
        log=ended.log,
        wall_time=ended.wall_time,
        cpu_time=ended.cpu_time,
        peak_memory=ended.peak_memory,
        pool=result.pool,
        worker=ended.worker,
    )


class _Value(TypedDict, total=False):
    data: Any
    data_base64: str


def _value(data: bytes | None, *, binary: bool) -> _Value:
    if binary and data is not None:
        return {"data_base64": base64.b64encode(data).decode()}
    return {"data": None if data is None else msgspec.Raw(data)}
