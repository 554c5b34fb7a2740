"""Routes for replays."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Path, Query, Request, Response

from busway.contract import replays as shapes
from busway.domain.result import Result
from busway.gateway.access.scopes import Access
from busway.gateway.api import answers, examples, runs
from busway.gateway.api.access import HolderDep, needs
from busway.gateway.api.answers import After, Limit, when
from busway.gateway.api.decoding import read
from busway.gateway.api.describing import NO_HANDLER, body
from busway.gateway.api.describing import answers as described
from busway.gateway.api.handlers import Name
from busway.gateway.api.paths import NUMBER
from busway.gateway.api.stages import Stages, StagesDep, current_handlers
from busway.gateway.store.port.reader import NO_LIMIT, ReplayRecord, ReplayResult, RunRecord
from busway.gateway.subscribers.encoding import encode_item

router = APIRouter(prefix="/v1", tags=["handlers"], dependencies=[Depends(current_handlers)])

ReplayId = Annotated[int, Path(description="The replay's number.", ge=1, lt=1 << 63, examples=[1])]
_NO_REPLAY = ("The replay does not exist.", "there is no replay 99: GET /v1/replays lists them")
_TOO_MANY = (
    "Too many replays are unfinished.",
    "20 replays are unfinished: wait until one has finished, or cancel one",
)
_ENDED = ("The replay has ended.", "replay 1 is done: only running replays can be cancelled")
_EXAMPLE = {"types": ["order.*"], "after": 1000, "before": 2000, "shadow": True}


def _shown(record: ReplayRecord) -> shapes.Replay:
    fields = {
        **{name: getattr(record, name) for name in shapes.Replay.__struct_fields__ if name != "runs"},
        "handler": record.name,
        "created_at": when(record.created_at),
        "finished_at": when(record.finished_at),
    }
    return shapes.Replay(**fields, runs=record.counts)


@router.post(
    "/handlers/{name}/replay",
    summary="Replay events",
    dependencies=needs("handlers:write", audit="replay.created"),
    openapi_extra=body(shapes.ReplayIn, _EXAMPLE),
    responses=described(shapes.Replay, "The replay.", problems={404: NO_HANDLER, 409: _TOO_MANY}),
)
async def replay_events(stages: StagesDep, name: Name, request: Request) -> Response:
    """Runs stored events again, oldest first, with the handler's current revision. All fields are optional.

    The runs start when no other run of the handler waits. They are not ordered by `partitionkey`, and do not
    complete their root events again.
    """
    wanted = await read(request, shapes.ReplayIn)
    return answers.json(_shown(await stages.replays.create(stages.changes.live(name), wanted)))


@router.get(
    "/replays",
    summary="List replays",
    dependencies=needs("handlers:read"),
    responses=described(shapes.ReplayList, "A page of replays."),
)
async def list_replays(
    stages: StagesDep,
    handler: Annotated[str | None, Query(description="Only replays of this handler.")] = None,
    limit: Limit = 100,
    after: After = None,
) -> Response:
    """Returns replays, newest first."""
    before = answers.number(after) or NO_LIMIT
    found = await stages.reader.replays(handler, before, limit + 1)
    return answers.part(stages, list(map(_shown, found)), limit, lambda replay, _: str(replay.id))


@router.get(
    f"/replays/{{id:{NUMBER}}}",
    summary="Retrieve a replay",
    dependencies=needs("handlers:read"),
    responses=described(shapes.Replay, "The replay.", problems={404: _NO_REPLAY}),
)
async def read_replay(stages: StagesDep, id: ReplayId) -> Response:  # noqa: A002 - the contract's name
    """Returns the replay with its progress and the number of its runs by state."""
    return answers.json(_shown(await stages.replays.find(id)))


@router.post(
    f"/replays/{{id:{NUMBER}}}/cancel",
    summary="Cancel a replay",
    dependencies=needs("handlers:write", audit="replay.cancelled"),
    responses=described(
        shapes.Replay,
        "The cancelled replay.",
        example=examples.CANCELLED_REPLAY,
        problems={404: _NO_REPLAY, 409: _ENDED},
    ),
)
async def cancel_replay(stages: StagesDep, id: ReplayId) -> Response:  # noqa: A002 - the contract's name
    """Creates no more runs, and cancels the unfinished ones."""
    return answers.json(_shown(await stages.replays.cancel(id)))


@router.get(
    f"/replays/{{id:{NUMBER}}}/results",
    summary="List results of a replay",
    dependencies=needs("subscribe"),
    responses=described(shapes.ReplayResultList, "A page of results.", problems={404: _NO_REPLAY}),
)
async def list_replay_results(
    stages: StagesDep,
    access: HolderDep,
    id: ReplayId,  # noqa: A002 - the contract's name
    limit: Limit = 100,
    after: After = None,
) -> Response:
    """Returns the finished runs of a replay, each with its result and with the result on record.

    A page has about 8 MiB at most, and may be shorter than `limit`. The last page has a `next` of null: all
    runs that have finished were listed. Partial results are not included. Runs of events that the type
    patterns of the key do not match are left out.
    """
    await stages.replays.find(id)
    with stages.answers.hold(answers.PAGE_BYTES):
        found = await stages.reader.replay_results(
            id, answers.number(after) or 0, limit, answers.PAGE_BYTES // 2
        )
        more = str(found[-1].run.id) if found and await _follows(stages, id, found[-1].run.id) else None
        items = [_result(stages, each) for each in await _seen(stages, found, access)]
        return answers.json({"items": items, "next": more})


async def _follows(stages: Stages, replay: int, run: int) -> bool:
    return bool(await stages.reader.replay_results(replay, run, 1, 1))


async def _seen(stages: Stages, found: list[ReplayResult], access: Access) -> list[ReplayResult]:
    """Return those whose event the key may read."""
    if not access.types:
        return found
    types = await stages.reader.event_types(list({each.run.event for each in found}))
    return [each for each in found if access.sees(types.get(each.run.event, ""))]


def _result(stages: Stages, found: ReplayResult) -> dict[str, Any]:
    return {
        "event": found.run.event,
        "run": runs.shown(stages, found.run),
        "result": _item(stages, found.result),
        "recorded_run": _run(stages, found.recorded),
        "recorded_result": _item(stages, found.recorded_result),
    }


def _run(stages: Stages, record: RunRecord | None) -> Any:
    return None if record is None else runs.shown(stages, record)


def _item(stages: Stages, result: Result | None) -> msgspec.Raw | None:
    return None if result is None else msgspec.Raw(encode_item(result, stages.hub.epoch))
