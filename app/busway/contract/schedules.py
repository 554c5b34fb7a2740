"""Schedules."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from busway.contract.events import SCHEDULED
from busway.contract.scalars import Base64, Name, Page, Time, one_of
from busway.domain.handler import MAX_DESCRIPTION, NAME, RULES

ScheduleName = Annotated[
    str,
    Meta(
        pattern=f"^{NAME.pattern}$",
        description="The unique name of the schedule.",
        examples=["nightly-report"],
        extra={"rule": RULES["name"]},
    ),
]
Cron = Annotated[
    str,
    Meta(
        max_length=255,
        description="Minute, hour, day of month, month, day of week, on the wall clock of `timezone`.",
        examples=["0 3 * * *"],
    ),
]
Every = Annotated[
    str,
    Meta(
        pattern="^[0-9]{1,9}[smhdw]$",
        description="A period from 1s to 366d, counted from when it was set.",
        examples=["30s"],
    ),
]
Zone = Annotated[
    str,
    Meta(
        max_length=255,
        description="A time zone of the IANA database, for `cron`. The default is UTC.",
        examples=["Europe/Berlin"],
    ),
]
CatchUp = Annotated[
    Literal["one", "none", "all"],
    Meta(
        description="What happens with firings that were missed, such as during a stop: the newest one "
        "happens, none, or all, at most the newest 1,000. The default is `one`."
    ),
]
Paused = Annotated[bool, Meta(description="While the schedule is paused, it does not fire.")]


def _check_description(value: object) -> str | None:
    if isinstance(value, str) and len(value) <= MAX_DESCRIPTION and "\0" not in value:
        return None
    return f"description must be a string of at most {MAX_DESCRIPTION} characters without NUL characters"


Description = Annotated[
    str,
    Meta(max_length=MAX_DESCRIPTION, description="Free text.", extra={"rule": _check_description}),
]


class ScheduledEvent(msgspec.Struct, kw_only=True):
    """The event that each firing publishes. Its id, source and time are set for each firing.

    Other fields are extension attributes, as in an event to publish.
    """

    SCHEMA: ClassVar[dict[str, Any]] = SCHEDULED

    type: Annotated[str, Meta(min_length=1, max_length=255, examples=["report.wanted"])]
    data: Annotated[Any, Meta(description="The payload: any JSON.")] | UnsetType = UNSET
    data_base64: Base64 | UnsetType = UNSET
    subject: Name | UnsetType | None = UNSET


Template = Annotated[
    dict[str, Any],
    Meta(
        extra_json_schema={"$ref": "#/components/schemas/ScheduledEvent"},
        examples=[{"type": "report.wanted", "data": {"of": "yesterday"}}],
    ),
]


class ScheduleChange(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Fields of a schedule to set. Either `cron` or `every` is set: set the other one to null."""

    name: (
        Annotated[ScheduleName | None, Meta(description="The name in the URL. It cannot be changed.")]
        | UnsetType
    ) = UNSET
    cron: Cron | UnsetType | None = UNSET
    every: Every | UnsetType | None = UNSET
    timezone: Zone | UnsetType | None = UNSET
    event: Template | UnsetType = UNSET
    catch_up: CatchUp | UnsetType | None = UNSET
    paused: Paused | UnsetType | None = UNSET
    description: Description | UnsetType | None = UNSET


class ScheduleIn(ScheduleChange, kw_only=True):
    """A schedule to create: `name`, `event`, and either `cron` or `every`."""

    name: ScheduleName
    event: Template


class Schedule(msgspec.Struct, kw_only=True):
    """A schedule, with its next firings."""

    name: ScheduleName
    cron: Cron | None
    every: Every | None
    timezone: Zone
    event: Annotated[Any, msgspec.Meta(extra_json_schema={"$ref": "#/components/schemas/ScheduledEvent"})]
    catch_up: Annotated[str, one_of(["one", "none", "all"])]
    paused: Paused
    description: Description
    next: Annotated[list[Time], Meta(description="The next five firings. None while the schedule is paused.")]
    last_fired_at: Annotated[Time | None, Meta(description="The time of the newest firing.")]
    created_at: Time
    updated_at: Time


class ScheduleList(Page[Schedule]):
    """A page of schedules, by name."""
