"""Runs, attempts and their errors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from busway.contract.scalars import Page, Seq, Time, one_of
from busway.domain.run import Outcome, RunState

State = Annotated[str, one_of(RunState)]
CountsByState = Annotated[
    dict[str, int], Meta(description="The number of runs by state.", examples=[{"succeeded": 1}])
]


class Error(msgspec.Struct):
    """The error of an attempt, or of a run's newest failed attempt."""

    type: Annotated[str, Meta(description="The exception's type.", examples=["ValueError"])]
    message: Annotated[str, Meta(examples=["quantity must be positive"])]
    traceback: Annotated[str | None, Meta(description="Null in lists of runs; null if there is none.")]


class Run(msgspec.Struct):
    """One event processed by one handler."""

    id: Annotated[int, Meta(description="The run's number.", examples=[1])]
    event: Seq
    handler: Annotated[str, Meta(examples=["price"])]
    revision: Annotated[
        int | None,
        Meta(description="The revision of the newest attempt. Null before the first."),
    ]
    state: State
    attempt: Annotated[int, Meta(description="The number of started attempts.")]
    max_attempts: int
    available_at: Annotated[
        Time, Meta(description="The run does not start before this time. RFC 3339, in UTC.")
    ]
    created_at: Time
    finished_at: Annotated[Time | None, Meta(description="Null while the run is unfinished.")]
    error: Annotated[Error | None, Meta(description="The error of the newest failed attempt.")]
    replay: Annotated[int | None, Meta(description="The replay that created this run. Null: its event did.")]


class Attempt(msgspec.Struct):
    """One try of a run."""

    attempt: Annotated[int, Meta(description="Counted from 1.")]
    outcome: Annotated[Annotated[str, one_of(Outcome)] | None, Meta(description="Null while it runs.")]
    revision: Annotated[int, Meta(description="The handler's revision that it ran.")]
    started_at: Time
    finished_at: Annotated[Time | None, Meta(description="Null while it runs.")]
    pool: Annotated[str, Meta(description="`process` or `thread`.")]
    worker: Annotated[int | None, Meta(description="The worker's process id.")]
    node: Annotated[
        str | None,
        Meta(description="The name of the node that ran it (`--node-name`). Null if an older Busway ran it."),
    ]
    cpu_time: Annotated[
        float | None, Meta(description="Seconds; null if it is not known for one attempt alone.")
    ]
    wall_time: Annotated[float | None, Meta(description="Seconds.")]
    peak_memory: Annotated[
        int | None, Meta(description="Bytes; null if it is not known for one attempt alone.")
    ]
    error: Error | None
    log: Annotated[str | None, Meta(description="Its output and log lines, at most 64 KiB.")]
    published: Annotated[
        list[Any] | None,
        Meta(
            description="In a shadow replay: the first 64 KiB of the events that it published and that were "
            "not stored."
        ),
    ]


class RunDetail(Run):
    """A run with its attempts."""

    attempts: list[Attempt]


class RunList(Page[Run]):
    """A page of runs, newest first."""


class RetryIn(msgspec.Struct, forbid_unknown_fields=True):
    """The runs to retry."""

    state: Literal["dead", "cancelled"] = "dead"
    handler: Annotated[str | None, Meta(description="Only runs of this handler.")] | UnsetType = UNSET


class RetryAnswer(msgspec.Struct):
    """The number of retried runs."""

    retried: int
