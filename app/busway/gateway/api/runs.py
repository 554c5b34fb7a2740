"""Routes for runs."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Path, Query, Request, Response

from busway.contract import runs as shapes
from busway.domain.run import UNFINISHED, Error, RunState
from busway.gateway.access.scopes import Access
from busway.gateway.api import answers, examples
from busway.gateway.api.access import HolderDep, needs
from busway.gateway.api.answers import After, Limit
from busway.gateway.api.decoding import read
from busway.gateway.api.describing import NO_HANDLER, body
from busway.gateway.api.describing import answers as described
from busway.gateway.api.paths import NUMBER
from busway.gateway.api.stages import Stages, StagesDep
from busway.gateway.errors import Conflict, NotFound
from busway.gateway.store.port.operations import Cancel, Retry, RetryDead
from busway.gateway.store.port.reader import AttemptRecord, RunQuery, RunRecord

router = APIRouter(prefix="/v1/runs", tags=["runs"])

RETRY_AT_ONCE = 1_000
_GONE = (
    "The run does not exist, or it was finished and deleted after `--retention`.",
    "run 99 does not exist, or was deleted after --retention: GET /v1/runs lists runs",
)
_FINISHED = ("The run is finished.", "run 3 is succeeded: only unfinished runs can be cancelled")
_RETRIED = {RunState.DEAD, RunState.CANCELLED, RunState.RETRYABLE}
_NOT_NOW = (
    "The run waits, runs or succeeded, or its handler is deleted.",
    "run 3 is succeeded: only dead, cancelled and retryable runs can be retried",
)
RunId = Annotated[int, Path(description="The run's number.", ge=1, lt=1 << 63, examples=[1])]


def shown(stages: Stages, record: RunRecord) -> shapes.Run:
    """Return a run for an answer."""
    return answers.run(record, _max_attempts(stages, record))


def _max_attempts(stages: Stages, record: RunRecord) -> int:
    entry = stages.registry.named(record.handler)
    return entry.spec.max_attempts if entry else 0


@router.get(
    "",
    summary="List runs",
    dependencies=needs("subscribe"),
    responses=described(shapes.RunList, "A page of runs."),
)
async def list_runs(
    stages: StagesDep,
    access: HolderDep,
    state: Annotated[RunState | None, Query(description="Only runs in this state.")] = None,
    handler: Annotated[str | None, Query(description="Only runs of this handler.")] = None,
    event: Annotated[
        int | None, Query(description="Only runs of the event with this `seq`.", ge=1, lt=1 << 63)
    ] = None,
    replay: Annotated[int | None, Query(description="Only runs of this replay.", ge=1, lt=1 << 63)] = None,
    limit: Limit = 100,
    after: After = None,
) -> Response:
    """Returns runs, newest first. A run must match all parameters.

    A page has at most 8 MiB, and may be shorter than `limit`. The last page has a `next` of null. Runs of
    events that the type patterns of the key do not match are left out.
    """
    query = RunQuery(state=state, handler=handler, event=event, replay=replay)

    async def read(before: int | None, most: int, max_bytes: int) -> list[tuple[int, shapes.Run]]:
        asked = msgspec.structs.replace(query, before=before)
        return [(r.id, shown(stages, r)) for r in await stages.reader.runs(asked, most, max_bytes)]

    if not access.types:
        return await answers.page(stages, read, answers.number(after), limit)

    async def seen(found: list[tuple[int, shapes.Run]]) -> set[int]:
        types = await stages.reader.event_types(list({run.event for _, run in found}))
        return {run.id for _, run in found if access.sees(types.get(run.event, ""))}

    return await answers.narrowed_page(stages, read, seen, answers.number(after), limit)


@router.get(
    f"/{{id:{NUMBER}}}",
    summary="Retrieve a run",
    dependencies=needs("subscribe"),
    responses=described(shapes.RunDetail, "The run.", problems={404: _GONE}),
)
async def read_run(stages: StagesDep, access: HolderDep, id: RunId) -> Response:  # noqa: A002 - the contract's name
    """Returns the run with its attempts: outcome, error, traceback, times and log.

    If the logs and tracebacks of all attempts take more than 4 MiB, those of the oldest attempts are null.
    """
    with stages.answers.hold(answers.PAGE_BYTES):
        record, attempts = await _found(stages, id)
        await _check_seen(stages, record, access)
        detail = answers.run_detail(record, _max_attempts(stages, record), attempts)
        for attempt in detail.attempts:
            if attempt.published is not None:
                attempt.published = [each for each in attempt.published if access.sees(each["type"])]
        return answers.json(detail)


@router.post(
    f"/{{id:{NUMBER}}}/retry",
    summary="Retry a run",
    dependencies=needs("handlers:write", audit="run.retried"),
    responses=described(
        shapes.Run,
        "The run. It is available again.",
        example=examples.RETRIED_RUN,
        problems={404: _GONE, 409: _NOT_NOW},
    ),
)
async def retry_run(stages: StagesDep, id: RunId) -> Response:  # noqa: A002 - the contract's name
    """A dead or cancelled run gets `max_attempts` more attempts. A retryable run starts at once."""
    record, _ = await _found(stages, id)
    entry = stages.registry.named(record.handler)
    deleted = entry is None or entry.handler.deleted
    if (
        deleted
        or record.state not in _RETRIED
        or not await stages.commits.change(Retry(runs=[id], now=stages.clock()))
    ):
        if deleted:
            raise Conflict(f"the handler {record.handler!r} of run {id} is deleted: create it again first")
        raise Conflict(f"run {id} is {record.state}: only dead, cancelled and retryable runs can be retried")
    return answers.json(shown(stages, (await _found(stages, id))[0]))


@router.post(
    f"/{{id:{NUMBER}}}/cancel",
    summary="Cancel a run",
    dependencies=needs("handlers:write", audit="run.cancelled"),
    responses=described(
        shapes.Run,
        "The cancelled run.",
        example=examples.CANCELLED_RUN,
        problems={404: _GONE, 409: _FINISHED},
    ),
)
async def cancel_run(stages: StagesDep, id: RunId) -> Response:  # noqa: A002 - the contract's name
    """A waiting run never starts. A running attempt is asked to stop, then stopped. It no longer counts."""
    record, _ = await _found(stages, id)
    error = Error("Cancelled", "cancelled over HTTP")
    if record.state not in UNFINISHED or not await stages.commits.change(
        Cancel(runs=[id], error=error, now=stages.clock())
    ):
        state = (await _found(stages, id))[0].state
        raise Conflict(f"run {id} is {state}: only unfinished runs can be cancelled")
    return answers.json(shown(stages, (await _found(stages, id))[0]))


@router.post(
    "/retry",
    summary="Retry runs",
    dependencies=needs("handlers:write", audit="runs.retried"),
    openapi_extra=body(shapes.RetryIn, {"state": "dead"}),
    responses=described(shapes.RetryAnswer, "The number of retried runs.", problems={404: NO_HANDLER}),
)
async def retry_runs(stages: StagesDep, request: Request) -> Response:
    """Retries all dead runs, or all cancelled runs, of one handler or of all handlers.

    Runs of deleted handlers, and runs that end during this request, are not retried.
    """
    wanted = await read(request, shapes.RetryIn)
    state = RunState(wanted.state)
    handler = stages.changes.live(wanted.handler).handler.id if wanted.handler else None
    retried = after = 0  # in order of number: a run that dies again is not retried twice
    while True:
        step = RetryDead(state=state, handler=handler, now=stages.clock(), limit=RETRY_AT_ONCE, after=after)
        ids = await stages.commits.change(step)
        retried += len(ids)
        if len(ids) < RETRY_AT_ONCE:
            return answers.json(shapes.RetryAnswer(retried))
        after = max(ids)


async def _found(stages: Stages, id_: int) -> tuple[RunRecord, list[AttemptRecord]]:
    found = await stages.reader.run(id_)
    if found is None:
        raise _gone(id_)
    return found


async def _check_seen(stages: Stages, record: RunRecord, access: Access) -> None:
    """Check that the key may read the event of a run.

    Raises:
        NotFound: it may not. The same answer as for a run that does not exist.
    """
    if access.types:
        types = await stages.reader.event_types([record.event])
        if not access.sees(types.get(record.event, "")):
            raise _gone(record.id)


def _gone(id_: int) -> NotFound:
    return NotFound(f"run {id_} does not exist, or was deleted after --retention: GET /v1/runs lists runs")
