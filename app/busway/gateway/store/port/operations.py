"""The operations that the committer can apply. They are data, never closures.

The committer applies them in the order of submission. Each docstring names the type of the reply.
Times are microseconds since 1970. `handler` is the handler's number in the store.
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
    """Store events and the runs they start, all or none. Reply: `list[StoredEvent]`, one for each event."""

    events: list[NewEvent]


class PublishEncoded(Operation, tag="Publish", kw_only=True):
    """`Publish` as the committer gets it if it is large: the events are decoded a few at a time."""

    events: list[msgspec.Raw]


class StoredEvent(msgspec.Struct, array_like=True, frozen=True):
    """The number of a stored event and of its first run. Its other runs have the numbers that follow.

    `duplicate`: an event with this (source, id) exists. Nothing was stored, and `seq` is its number.
    """

    seq: int
    first_run: int
    duplicate: bool = False


class NewResult(msgspec.Struct, array_like=True, kw_only=True):
    """A result that has no number yet. `data` is JSON text, or any bytes if `binary`."""

    kind: Kind
    index: int | None = None
    data: bytes | None = None
    binary: bool = False
    error: tuple[str, str] | None = None
    time: int


class Report(msgspec.Struct, array_like=True, kw_only=True):
    """The outcome of one attempt. A value that cannot be measured for a single attempt is None.

    Times are microseconds since 1970, `cpu_time` and `wall_time` seconds, `peak_memory` bytes.
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
    """Mark a long attempt as running. Reply: bool, False if the run does not wait for this attempt."""

    run: int
    token: int
    attempt: int
    revision: int
    started_at: int
    pool: str
    worker: int | None
    fence: int = 0


class Append(Operation, kw_only=True):
    """Append a partial result of a running attempt. Reply: its number, 0 if the attempt has ended."""

    run: int
    event: int
    handler: int
    revision: int
    attempt: int
    result: NewResult
    fence: int = 0


class Settle(Operation, kw_only=True):
    """Settle one attempt: store run state, attempt, result and published events, all or none.

    It is accepted once. If `Commits` sends it again, the store replies again without a second write.
    The run must be marked as running with this `token`. An unmarked run must be waiting, with
    `attempt - 1` attempts and with the same `fence` as when the attempt started. A manual retry sets a
    new fence, so that the store refuses outcomes of earlier attempts.
    `state` is the run's new state: a final one, or `retryable` or `available` to start again at `due`
    (None: at once).
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
    """The reply to `Settle`: whether it was accepted, its result's number and `completes`, its events.

    `granted`: attempts of the run that no longer count, as in `Run`.
    """

    accepted: bool
    number: int = 0
    completes: bytes | None = None
    stored: list[StoredEvent] = []
    granted: int = 0


class Cancel(Operation, kw_only=True):
    """Cancel the unfinished ones of these runs, each with a `cancelled` result. Reply: their ids."""

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
    """Cancel up to `limit` runs that had no attempt before their event's `expirytime`. Reply: their ids.

    `spare`: runs that workers have. They are not cancelled, even if the store does not know of the attempt.
    """

    error: Error
    now: int
    limit: int
    spare: list[int] = []


class Retry(Operation, kw_only=True):
    """Make the dead, cancelled and retryable ones of these runs available again. Reply: their ids.

    Attempt numbers continue. Each run gets `max_attempts` further attempts.
    """

    runs: list[int]
    now: int


class Retried(msgspec.Struct, array_like=True):
    """The committer's reply to `Retry`: the ids, and the new state of runs that were already waiting."""

    ids: list[int]
    runs: list[Run] = []


class RetryDead(Operation, kw_only=True):
    """Make up to `limit` dead or cancelled runs with ids above `after` available. Reply: their ids.

    `handler` None: runs of all handlers.
    """

    state: RunState
    handler: int | None
    now: int
    limit: int
    after: int = 0


class Rescue(Operation, kw_only=True):
    """At start: count running attempts as lost. Reply: how many.

    Their runs wait again, each with a `lost` result, or are dead.
    """

    now: int
    max_losses: int


class SaveHandler(Operation, kw_only=True):
    """Insert (`id` 0) or replace a handler, and add a new revision to its history. Reply: its id.

    Refused with an integrity error if another handler has the name.
    """

    handler: Handler
    fields: dict[str, Any]


class CreateKey(Operation, kw_only=True):
    """Store the digest of an API key. Reply: the key's id."""

    name: str
    digest: bytes
    scopes: list[str]
    now: int
    expires_at: int | None = None


class RevokeKey(Operation, kw_only=True):
    """Revoke an API key. Reply: bool, False if no key has that id."""

    id: int
    now: int


class OpenDurable(Operation, kw_only=True):
    """Create a durable subscription at a position, unless it exists or there are `most` already.

    `key`: the number of the API key that creates it, which may have `most_of_key`.

    Reply: `(number, digest)` of its position, None if there are too many.
    """

    name: str
    number: int
    digest: int
    now: int
    most: int
    key: int | None = None
    most_of_key: int = 1 << 62


class Acknowledge(Operation, kw_only=True):
    """Move durable subscriptions forward to `(name, number, digest)`, one entry a name. None moves back.

    Reply: the names whose position is not in this log. These do not move.
    """

    positions: list[tuple[str, int, int]]
    now: int


class DeleteDurable(Operation, kw_only=True):
    """Delete a durable subscription. Reply: bool, False if none has that name."""

    name: str


class PruneResults(Operation, kw_only=True):
    """Delete the oldest results, up to and including number `until`. Reply: `Floor`.

    The floor of the log moves to `until`. Cursors before the floor are no longer valid.
    """

    until: int


class Floor(msgspec.Struct, array_like=True):
    """The position just before the oldest remaining result, and how many results were deleted."""

    number: int
    digest: int
    removed: int


class PruneEvents(Operation, kw_only=True):
    """Delete events with their runs and attempts, each list all or none. Reply: how many events.

    A list is skipped if a run of its events is unfinished, has a result that is still stored, or
    published an event that is stored and not in the list.
    """

    trees: list[list[int]]


AnyOperation = (
    Publish | Mark | Append | Settle | Cancel | CancelWaiting | Expire | Retry | RetryDead | Rescue
    | SaveHandler | CreateKey | RevokeKey | OpenDurable | Acknowledge | DeleteDurable
    | PruneResults | PruneEvents
)  # fmt: skip
