"""Runs: the execution of one handler for one event."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from busway.domain.event import Event

MAX_LOSSES = 10  # after this many lost attempts a run is dead: it probably kills its workers
MAX_RETURNS = 3  # after so many returns because its worker died, a run gets a worker of its own


class RunState(StrEnum):
    """State of a run. The first three are unfinished, the last three final."""

    AVAILABLE = "available"
    RETRYABLE = "retryable"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    CANCELLED = "cancelled"
    DEAD = "dead"


UNFINISHED = (RunState.AVAILABLE, RunState.RETRYABLE, RunState.RUNNING)
WAITING = (RunState.AVAILABLE, RunState.RETRYABLE)
FINAL = (RunState.SUCCEEDED, RunState.CANCELLED, RunState.DEAD)


class Outcome(StrEnum):
    """How one attempt ended. `lost`: its worker or the gateway died, and the attempt may not be the cause."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"


class Error(msgspec.Struct, array_like=True, frozen=True):
    """Why an attempt failed: the exception's type, its message and its traceback, if any."""

    type: str
    message: str
    traceback: str | None = None


class Run(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A waiting or running run in memory. Times are microseconds since 1970.

    Attributes:
        handler: number of the handler in the store.
        attempt: number of attempts so far.
        lost: lost attempts. They do not count against `max_attempts`.
        granted: attempts before the last manual retry. They do not count either.
        due: earliest start, None for at once.
        since: when the run could have started.
        expires_at: latest start of the first attempt.
        key: the partition key, by which an ordered handler orders runs. None if the event has none,
            or if the run is a replay or was retried manually.
        fence: the value that outcomes must name. It makes the store refuse outcomes of attempts from
            before a manual retry.
        returned: how often a worker died that had this run and seemed not to have started it.
        replay: the replay that created it, negative if it is a shadow replay, 0 if an event did.
        alone: the next attempt gets a worker of its own, because a worker died while it ran this run.
    """

    id: int
    event: Event
    handler: int
    attempt: int = 0
    lost: int = 0
    granted: int = 0
    priority: int = 4
    due: int | None = None
    since: int = 0
    expires_at: int | None = None
    key: str | None = None
    fence: int = 0
    returned: int = 0
    alone: bool = False
    replay: int = 0
