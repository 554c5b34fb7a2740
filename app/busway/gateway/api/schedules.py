"""Routes for schedules."""

from __future__ import annotations

import asyncio
from typing import Annotated

import msgspec
from fastapi import APIRouter, Path, Request, Response

from busway.contract import schedules as shapes
from busway.domain.schedule import Schedule
from busway.gateway.api import answers, examples
from busway.gateway.api.access import needs
from busway.gateway.api.answers import PAGE_BYTES, After, Limit, when
from busway.gateway.api.decoding import read
from busway.gateway.api.describing import answers as described
from busway.gateway.api.describing import body
from busway.gateway.api.stages import Stages, StagesDep
from busway.gateway.errors import Unavailable

router = APIRouter(prefix="/v1/schedules", tags=["schedules"])

Name = Annotated[str, Path(description="The schedule's name.", examples=["nightly-report"])]
SpareName = Annotated[str, Path(description="The schedule's name.", examples=["spare"])]
_READ_AT_ONCE = 100
_NEW = {
    "name": "try-me", "cron": "0 3 * * *", "timezone": "Europe/Berlin",
    "event": {"type": "report.wanted", "data": {"of": "yesterday"}},
}  # fmt: skip
_NONE = (
    "The schedule does not exist.",
    "there is no schedule 'nightly': GET /v1/schedules lists them",
)
_TAKEN = (
    "A schedule with this name exists, or there are too many schedules.",
    "there is a schedule 'try-me' already: change it with PATCH, or delete it",
)
_PAUSED = ("The schedule is already paused.", "the schedule 'nightly-report' is paused already")
_NOT_PAUSED = ("The schedule is not paused.", "the schedule 'nightly-report' is not paused")


@router.post(
    "",
    status_code=201,
    summary="Create a schedule",
    dependencies=needs("handlers:write", audit="schedule.created"),
    openapi_extra=body(shapes.ScheduleIn, _NEW),
    responses=described(
        shapes.Schedule,
        "The schedule. It fires from now on.",
        status=201,
        example=examples.NEW_SCHEDULE,
        problems={409: _TAKEN},
    ),
)
async def create_schedule(stages: StagesDep, request: Request) -> Response:
    """A schedule publishes `event` at the times of `cron`, or `every` so often.

    `name`, `event`, and either `cron` or `every` are required. The id of each event is the schedule's name
    and the time of the firing, its source is `/schedules/NAME`.
    """
    new = await read(request, shapes.ScheduleIn)
    return _one(stages, await stages.schedules.create(new, await _event(request) or ""), 201)


@router.get(
    "",
    summary="List schedules",
    dependencies=needs("handlers:read"),
    responses=described(shapes.ScheduleList, "A page of schedules."),
)
async def list_schedules(stages: StagesDep, limit: Limit = 100, after: After = None) -> Response:
    """Returns the schedules by name, with the times of their next firings."""
    shown: list[shapes.Schedule] = []
    size, last = 0, after or ""
    while len(shown) <= limit and size <= PAGE_BYTES:
        found = await stages.reader.schedules(last, _READ_AT_ONCE)
        for schedule in found:
            shown.append(_shown(stages, schedule))
            size += len(schedule.event)
            await asyncio.sleep(0)  # the next firings of a rare cron line take a moment
        if len(found) < _READ_AT_ONCE:
            break
        last = found[-1].name
    return answers.part(stages, shown, limit, lambda schedule, _: schedule.name)


@router.get(
    "/{name}",
    summary="Retrieve a schedule",
    dependencies=needs("handlers:read"),
    responses=described(shapes.Schedule, "The schedule.", problems={404: _NONE}),
)
async def read_schedule(stages: StagesDep, name: Name) -> Response:
    """Returns its fields and the times of its next firings."""
    return _one(stages, await stages.schedules.live(name))


@router.patch(
    "/{name}",
    summary="Update a schedule",
    dependencies=needs("handlers:write", audit="schedule.changed"),
    openapi_extra=body(shapes.ScheduleChange, {"cron": "0 4 * * *"}),
    responses=described(shapes.Schedule, "The updated schedule.", problems={404: _NONE}),
)
async def change_schedule(stages: StagesDep, name: Name, request: Request) -> Response:
    """Null restores the default. With another `cron`, `every` or `timezone`, firings count from now."""
    change = await read(request, shapes.ScheduleChange)
    return _one(stages, await stages.schedules.change(name, change, await _event(request)))


@router.post(
    "/{name}/pause",
    summary="Pause a schedule",
    dependencies=needs("handlers:write", audit="schedule.paused"),
    responses=described(
        shapes.Schedule,
        "The paused schedule.",
        example=examples.PAUSED_SCHEDULE,
        problems={404: _NONE, 409: _PAUSED},
    ),
)
async def pause_schedule(stages: StagesDep, name: Name) -> Response:
    """It does not fire until it is resumed."""
    return _one(stages, await stages.schedules.set_paused(name, paused=True))


@router.post(
    "/{name}/resume",
    summary="Resume a schedule",
    dependencies=needs("handlers:write", audit="schedule.resumed"),
    responses=described(shapes.Schedule, "The schedule.", problems={404: _NONE, 409: _NOT_PAUSED}),
)
async def resume_schedule(stages: StagesDep, name: Name) -> Response:
    """Firings that the pause left out are not caught up."""
    return _one(stages, await stages.schedules.set_paused(name, paused=False))


@router.post(
    "/{name}/run",
    summary="Fire a schedule now",
    dependencies=needs("handlers:write", audit="schedule.run"),
    responses=described(shapes.Schedule, "The schedule. Its event is stored.", problems={404: _NONE}),
)
async def run_schedule(stages: StagesDep, name: Name) -> Response:
    """Publishes its event now, also while it is paused. Its other firings stay as they are."""
    if stages.publisher.closed is not None:
        raise Unavailable(stages.publisher.closed)
    return _one(stages, await stages.schedules.run(name))


class _Body(msgspec.Struct):
    event: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


@router.delete(
    "/{name}",
    status_code=204,
    summary="Delete a schedule",
    dependencies=needs("handlers:write", audit="schedule.deleted"),
    responses=described(None, "The schedule is deleted.", status=204, problems={404: _NONE}),
)
async def delete_schedule(stages: StagesDep, name: SpareName) -> Response:
    """It fires no more. The events that it published stay."""
    await stages.schedules.delete(name)
    return Response(status_code=204)


async def _event(request: Request) -> str | None:
    """Return the event of a valid body as received, None if there is none."""
    event = msgspec.json.decode(await request.body(), type=_Body).event
    return None if isinstance(event, msgspec.UnsetType) else bytes(event).decode()


def _one(stages: Stages, schedule: Schedule, status: int = 200) -> Response:
    return answers.json(_shown(stages, schedule), status)


def _shown(stages: Stages, schedule: Schedule) -> shapes.Schedule:
    upcoming = [] if schedule.paused else schedule.timing.upcoming(max(stages.clock(), schedule.after))
    return shapes.Schedule(
        name=schedule.name,
        cron=schedule.cron,
        every=schedule.every,
        timezone=schedule.timezone,
        event=msgspec.Raw(schedule.event.encode()),
        catch_up=schedule.catch_up,
        paused=schedule.paused,
        description=schedule.description,
        next=[when(firing) for firing in upcoming],
        last_fired_at=when(schedule.last_fired_at),
        created_at=when(schedule.created_at),
        updated_at=when(schedule.updated_at),
    )
