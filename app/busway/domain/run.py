"""A run: one event through one handler, its states and the transitions between them."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from busway.domain.event import Event

MAX_LOSSES = 10  # a run whose attempts were lost this often is dead: it probably kills its hosts


class RunState(StrEnum):
    """What a run is doing. The first three are unfinished, the last three final."""

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
    """How one attempt ended; `lost` through no proven fault of its own."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    LOST = "lost"


class Error(msgspec.Struct, array_like=True, frozen=True):
    """Why an attempt failed: the exception's type, its message, and the traceback if there is one."""

    type: str
    message: str
    traceback: str | None = None


class Run(msgspec.Struct, kw_only=True):
    """A waiting or running run as dispatch holds it.

    `attempt` counts the attempts made; of these `lost` are not charged, and `granted` were made
    before the last retry by hand. `due`: not before, microseconds since 1970, None is at once.
    `since`: when it could have started. `expires_at`: not started after. `handler` is the handler's
    number in the store. `fence`: what outcomes of this run must name, so that those of attempts before
    a retry by hand are refused.
    `key`: the partition key, by which an ordered handler keeps it in line; None: it stands outside
    (its event has none, it is a replay, or it was retried by hand).
    `alone`: the next attempt gets a worker of its own, because a worker died with this one on it.
    `token`: of the attempt that workers have, 0 if they have none.
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
    alone: bool = False
    token: int = 0

    @property
    def charged(self) -> int:
        """Attempts that count against `max_attempts`."""
        return self.attempt - self.lost - self.granted
