"""What the committer can be asked to write. Operations are data, never closures.

Each is applied in the order it was handed over; the reply type stands in its docstring.
Times are microseconds since 1970; `handler` is the handler's number in the store.
"""

from __future__ import annotations

from typing import Any

import msgspec

from busway.domain.event import NewEvent
from busway.domain.handler import Handler
from busway.domain.result import Kind
from busway.domain.run import Error, Outcome, Run, RunState


class Operation(msgspec.Struct, array_like=True, tag=True, kw_only=True):
    """Base of all operations."""


class Publish(Operation, kw_only=True):
    """Store events and the runs they start, all or none. Reply: `list[StoredEvent]`, one an event."""

    events: list[NewEvent]


class StoredEvent(msgspec.Struct, array_like=True, frozen=True):
    """Where an event went: its number, its first run's number (its runs are numbered in a row from there).

    `duplicate`: (source, id) was there before; `seq` is the first one's and nothing was stored.
    """

    seq: int
    first_run: int
    duplicate: bool = False


class NewResult(msgspec.Struct, array_like=True, kw_only=True):
    """A result before it has a number. `data` is JSON text, or any bytes if `binary`."""

    kind: Kind
    index: int | None = None
    data: bytes | None = None
    binary: bool = False
    error: tuple[str, str] | None = None
    time: int


class Report(msgspec.Struct, array_like=True, kw_only=True):
    """How one attempt went; what cannot be known for one attempt alone is None.

    Times in microseconds since 1970, `cpu_time` and `wall_time` in seconds, `peak_memory` in bytes,
    `worker` is a process id.
    """

    outcome: Outcome
    revision: int
    started_at: int
    finished_at: int
    pool: str
    worker: int | None = None
    cpu_time: float | None = None
    wall_time: float | None = None
    peak_memory: int | None = None
    error: Error | None = None
    log: str | None = None


class Mark(Operation, kw_only=True):
    """Mark an attempt that lasts as running. Reply: bool, False if the run is not there to be run."""

    run: int
    token: int
    attempt: int
    revision: int
    started_at: int
    pool: str
    worker: int
    fence: int = 0


class Append(Operation, kw_only=True):
    """Append a partial result of a running attempt. Reply: its number, 0 if the attempt is over."""

    run: int
    event: int
    handler: int
    revision: int
    attempt: int
    result: NewResult
    fence: int = 0


class Settle(Operation, kw_only=True):
    """Settle one attempt: run state, attempt, result and published events, together or not at all.

    It is accepted once (said again by `Commits`, it is answered again): the run must be marked running
    under `token`, or be waiting, unmarked, with `attempt - 1` attempts made, behind the same `fence` as
    when it was handed out: a retry by hand puts up a new one, so that the outcome of what was cancelled
    before comes too late.
    `state` is the run's state afterwards: a final one, or `retryable`/`available` to start again at
    `due` (None: at once).
    Reply: `Settled`.
    """

    run: int
    token: int
    attempt: int
    event: int
    root: int
    handler: int
    state: RunState
    due: int | None = None
    lost: int
    max_attempts: int
    report: Report
    result: NewResult | None = None
    published: list[NewEvent] = []
    fence: int = 0


class Settled(msgspec.Struct, array_like=True):
    """What became of a Settle: accepted or not, its result's number and `completes`, its stored events.

    `granted`: the run's attempts that do not count any more, as in `Run`.
    """

    accepted: bool
    number: int = 0
    completes: bytes | None = None
    stored: list[StoredEvent] = []
    granted: int = 0


class Cancel(Operation, kw_only=True):
    """Cancel those of the runs that are unfinished, each with a `cancelled` result. Reply: their ids."""

    runs: list[int]
    error: Error | None = None
    now: int


class CancelWaiting(Operation, kw_only=True):
    """Cancel up to `limit` waiting runs of a handler, each with a result. Reply: their ids."""

    handler: int
    error: Error
    now: int
    limit: int


class Expire(Operation, kw_only=True):
    """Cancel up to `limit` runs that no attempt started by their event's `expirytime`. Reply: their ids.

    `spare`: runs that workers have already, whether the store knows it or not.
    """

    error: Error
    now: int
    limit: int
    spare: list[int] = []


class Retry(Operation, kw_only=True):
    """Make those of the runs that are dead, cancelled or retryable available again. Reply: their ids.

    Their attempts count on and as many again as `max_attempts` are granted.
    """

    runs: list[int]
    now: int


class Retried(msgspec.Struct, array_like=True):
    """What the committer says to `Retry`: the ids, and those runs that waited already, as they wait now."""

    ids: list[int]
    runs: list[Run] = []


class RetryDead(Operation, kw_only=True):
    """Make up to `limit` dead (or cancelled) runs available, those behind `after`. Reply: their ids.

    `handler` None: of all handlers.
    """

    state: RunState
    handler: int | None
    now: int
    limit: int
    after: int = 0


class Rescue(Operation, kw_only=True):
    """At start: what ran when the gateway died is lost, so it waits again or is dead. Reply: how many."""

    now: int
    max_losses: int


class SaveHandler(Operation, kw_only=True):
    """Insert (`id` 0) or replace a handler; a revision seen first is kept in the history. Reply: its id.

    Refused with an integrity error if the name is taken by another handler.
    """

    handler: Handler
    fields: dict[str, Any]


class CreateKey(Operation, kw_only=True):
    """Store a key's digest. Reply: its id."""

    name: str
    digest: bytes
    scopes: list[str]
    now: int
    expires_at: int | None = None


class RevokeKey(Operation, kw_only=True):
    """Revoke a key. Reply: bool, False if there is none of that id."""

    id: int
    now: int


class OpenDurable(Operation, kw_only=True):
    """Give a durable subscription its first place, unless it has one or there are `most` names already.

    Reply: the `(number, digest)` of its place, None if there are too many.
    """

    name: str
    number: int
    digest: int
    now: int
    most: int


class Acknowledge(Operation, kw_only=True):
    """Move durable subscriptions forward to `(name, number, digest)`, each at most once; none moves back.

    Reply: the names whose place is not one of this log; they stay where they were.
    """

    places: list[tuple[str, int, int]]
    now: int


class DeleteDurable(Operation, kw_only=True):
    """Forget a durable subscription. Reply: bool, False if there is none of that name."""

    name: str


class PruneResults(Operation, kw_only=True):
    """Remove the oldest results, up to and with number `until`. Reply: `Floor`.

    The floor of the log moves there: what may be resumed from begins behind it.
    """

    until: int


class Floor(msgspec.Struct, array_like=True):
    """The place just before the oldest result kept, and how many were removed to move it there."""

    number: int
    digest: int
    removed: int


class PruneEvents(Operation, kw_only=True):
    """Remove events with their runs and attempts, each list all or none. Reply: how many events.

    A list is left as it is if a run of its events is unfinished, has a result that is still kept, or
    published an event that is there and not in the list.
    """

    trees: list[list[int]]


AnyOperation = (
    Publish | Mark | Append | Settle | Cancel | CancelWaiting | Expire | Retry | RetryDead | Rescue
    | SaveHandler | CreateKey | RevokeKey | OpenDurable | Acknowledge | DeleteDurable
    | PruneResults | PruneEvents
)  # fmt: skip
