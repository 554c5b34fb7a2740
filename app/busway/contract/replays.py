"""Replays and their results."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from busway.contract.handlers import Patterns
from busway.contract.results import Item
from busway.contract.runs import CountsByState, Run
from busway.contract.scalars import Page, Seq, Time, one_of
from busway.domain.replay import ReplayState

_Bound = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class ReplayIn(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The events to run again. They must also match the handler's filter."""

    types: (
        Annotated[
            Patterns, Meta(description="Type patterns of the events. The default is the handler's `events`.")
        ]
        | None
    ) = None
    after: Annotated[
        _Bound | None, Meta(description="Only events with a `seq` above it.", examples=[1000])
    ] = None
    before: Annotated[
        _Bound | None,
        Meta(
            description="Only events with a `seq` below it. Events that come after the request never run.",
            examples=[2000],
        ),
    ] = None
    shadow: Annotated[
        bool,
        Meta(
            description="Whether only to try: results reach only subscriptions with `shadow`, and what "
            "handlers publish is not stored."
        ),
    ] = False


class Replay(msgspec.Struct, kw_only=True):
    """Stored events, run again by a handler."""

    id: Annotated[int, Meta(description="The replay's number.", examples=[1])]
    handler: Annotated[str, Meta(examples=["price"])]
    types: list[str]
    after: Annotated[int, Meta(description="Only events with a `seq` above it.")]
    before: Annotated[int, Meta(description="Only events with a `seq` below it.")]
    shadow: bool
    state: Annotated[str, one_of(ReplayState)]
    matched: Annotated[int, Meta(description="The number of events that matched so far.")]
    created: Annotated[
        int, Meta(description="The number of runs so far. Events that were deleted meanwhile have none.")
    ]
    runs: CountsByState
    position: Annotated[int, Meta(description="Events up to this `seq` are done.")]
    created_at: Time
    finished_at: Annotated[Time | None, Meta(description="Null until all its runs have finished.")]


class ReplayList(Page[Replay]):
    """A page of replays, newest first."""


class ReplayResult(msgspec.Struct, kw_only=True):
    """A finished run of a replay with its result, and the result on record."""

    event: Seq
    run: Run
    result: Annotated[Item | None, Meta(description="Null if it was deleted after `--retention`.")]
    recorded_run: Annotated[
        Run | None,
        Meta(
            description="The newest finished run of the same event and handler before this one that was not "
            "of a shadow replay."
        ),
    ]
    recorded_result: Annotated[Item | None, Meta(description="Null if it was deleted after `--retention`.")]


class ReplayResultList(Page[ReplayResult]):
    """A page of the results of a replay, oldest run first."""
