"""The operations that the committer can apply. They are data, never closures.

The committer applies them in the order of submission. Each docstring names the type of the reply.
Times are microseconds since 1970. `handler` is the handler's number in the store.
"""

from __future__ import annotations

from typing import Any

import msgspec

from busway.domain.breaker import BreakerCheck
from busway.domain.event import NewEvent
from busway.domain.handler import Handler
from busway.domain.result import Kind
from busway.domain.run import Error, Outcome, Run, RunState
from busway.domain.schedule import Schedule
from busway.gateway.store.port.once import Once


class Operation(msgspec.Struct, array_like=True, tag=True, kw_only=True):
    """Base of all operations."""


class Publish(Operation, kw_only=True):
    """Store events and the runs they start, all or none. Reply: `list[StoredEvent]`, one for each event.

    `rules`: the version of the handlers with which the events were matched. If the store has a newer one,
    nothing is stored, and the reply says so. 0 if the database has one node.
    `once`: stores the events only once. Later, and if there are too many keys, the reply is `NotStored`.
    """

    rules: int = 0
    once: Once | None = None
    events: list[NewEvent]  # stays last: `frames.encode_publish` appends what is already encoded


class PublishEncoded(Operation, tag="Publish", kw_only=True):
    """`Publish` as the committer gets it if it is large: the events are decoded a few at a time."""

    rules: int = 0
    once: Once | None = None
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
    `worker` is a process id. `published`: as JSON, what an attempt of a shadow replay published, which is
    not stored.
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
    published: str | None = None


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


class Assign(Operation, kw_only=True):
    """Give the next attempt of a waiting run to another node, which starts it. Reply: bool.

    It is refused if the run does not wait for this attempt, `term` is not the newest, or the row of `node` is
    closed. `rules` as in `SaveHandler`.
    """

    run: int
    token: int
    attempt: int
    revision: int
    pool: str
    node: int
    term: int
    rules: int
    now: int
    fence: int = 0


class Return(Operation, kw_only=True):
    """Let a run wait again whose assigned attempt never started. Reply: bool, False if it has ended."""

    run: int
    token: int
    now: int


class Stopped(Operation, kw_only=True):
    """Let the leader know that nothing of these runs' attempts runs on this node any more. Reply: None.

    A node sends it for each attempt that was assigned to it and cancelled, and for each that lingered.
    """

    runs: list[int]


class Append(Operation, kw_only=True):
    """Append a partial result of a running attempt, as in `Settle`. Reply: its number, 0 if it has ended."""

    run: int
    token: int
    event: int
    handler: int
    revision: int
    attempt: int
    result: NewResult
    fence: int = 0


class Settle(Operation, kw_only=True):
    """Settle one attempt: store run state, attempt, result and published events, all or none.

    It is accepted once. If `Commits` sends it again, the store replies again without a second write.
    The run must be marked as running with this `token`, on this node. An unmarked run must be waiting, with
    `attempt - 1` attempts and the same `fence` as when the attempt started, and this node must lead. A manual
    retry sets a new fence, so that the store refuses outcomes of earlier attempts.
    `rules` as in `Publish`, for the published events.
    `state` is the run's new state: a final one, or `retryable` or `available` to start again at `due`
    (None: at once).
    `notices`: so many of the last ones of `published` are about operations, and belong to no tree.
    `lingers`: the attempt may still run. If several nodes use the database, `Stopped` follows.
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
    rules: int = 0
    lingers: bool = False
    notices: int = 0
    breaker: BreakerCheck | None = None


class Settled(msgspec.Struct, array_like=True):
    """The reply to `Settle`: whether it was accepted, its result's number and `completes`, its events.

    `granted`: attempts of the run that no longer count, as in `Run`. `paused`: the handler, if its breaker
    paused it, with `rules`, the new version of the handlers.
    """

    accepted: bool
    number: int = 0
    completes: bytes | None = None
    stored: list[StoredEvent] = []
    granted: int = 0
    paused: Handler | None = None
    rules: int = 0


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


class Lead(Operation, kw_only=True):
    """Make a node the leader, which hands out runs, and count attempts as lost that no node has any more.

    Their runs wait again, each with a `lost` result, or are dead. With one node: `term` and `node` are 0.
    The leader also uses it, with its term, for other nodes that are gone, and with the next term and `node` 0
    to leave the lead to others.
    Reply: the runs whose attempts were lost. None: another node leads.

    `gone`: nodes that do not answer, each with its last `beat`: their rows are closed. `term`: the number of
    the new term. `notices`: events about the nodes that are gone, which are stored with it.
    """

    now: int
    max_losses: int
    term: int = 0
    node: int = 0
    gone: list[tuple[int, int]] = []
    notices: list[NewEvent] = []


class SaveHandler(Operation, kw_only=True):
    """Insert (`id` 0) or replace a handler, and add a new revision to its history. Reply: its id.

    Refused with an integrity error if another handler has the name. `rules`: the version of the handlers
    from which it was made. If the store has a newer one, nothing is stored, and the reply says so.
    `notices`: events about it, which are stored with it. `seen`: the `updated_at` of what it replaces; if the
    handler was changed since, the reply is as for a newer version. `resets_breaker`: forget its failures.
    """

    handler: Handler
    fields: dict[str, Any]
    rules: int = 0
    notices: list[NewEvent] = []
    seen: int = 0
    resets_breaker: bool = False


class CreateKey(Operation, kw_only=True):
    """Store the digest of an API key. It raises the version of the handlers and keys. Reply: the key's id."""

    name: str
    digest: bytes
    scopes: list[str]
    now: int
    expires_at: int | None = None
    types: list[str] | None = None


class RevokeKey(Operation, kw_only=True):
    """Revoke an API key and raise the version of handlers and keys. Reply: whether there is such a key."""

    id: int
    now: int


class RedeemTicket(Operation, kw_only=True):
    """Record that a ticket was used. Forget it after `until`. Reply: bool, False if it was used before."""

    id: str
    until: int
    now: int


class OpenDurable(Operation, kw_only=True):
    """Take over a durable name for a subscription of this node. Create it if there are fewer than `most`.

    `key`: the number of the client that creates it, which may have `most_of_key`. `types`: its type patterns.

    Reply: `Opened`, None if there are too many.
    """

    name: str
    number: int
    digest: int
    now: int
    most: int
    key: int | None = None
    types: list[str] | None = None
    most_of_key: int = 1 << 62


class Opened(msgspec.Struct, array_like=True):
    """Position and generation of a durable name."""

    number: int
    digest: int
    generation: int


class TakeDurable(Operation, kw_only=True):
    """Take over a durable name for a subscription of this node. Reply: `Opened`, None if there is none."""

    name: str


class ReleaseDurable(Operation, kw_only=True):
    """Record that no subscription has this generation of a durable name any more. Reply: None."""

    name: str
    generation: int


class Acknowledge(Operation, kw_only=True):
    """Move durable subscriptions forward to `(name, number, digest, generation)`, one entry a name.

    None moves back. Reply: `Unmoved`.
    """

    positions: list[tuple[str, int, int, int]]
    now: int


class Unmoved(msgspec.Struct, array_like=True):
    """The names that did not move: their position is not in this log, or they have another generation."""

    unknown: list[str]
    taken_over: list[str]


class DeleteDurable(Operation, kw_only=True):
    """Delete a durable subscription. Reply: bool, False if none has that name."""

    name: str


class CreateReplay(Operation, kw_only=True):
    """Create a replay of stored events: those after number `after` and before `before`, both exclusive.

    `types`: patterns of the events. Reply: its id, 0 if `most` replays are unfinished, None if the handler is
    deleted.
    """

    handler: int
    types: list[str]
    after: int
    before: int
    shadow: bool
    now: int
    most: int


class ReplayEvents(Operation, kw_only=True):
    """Create runs of a replay for `events`. Events that are not stored any more are left out.

    `after`: the position of the replay. It moves to `until`. Nothing happens if the replay has another
    position or is cancelled. Reply: `list[Run]`, the new runs.
    """

    replay: int
    events: list[int]
    after: int
    until: int
    now: int


class CancelReplay(Operation, kw_only=True):
    """Cancel a replay: create no more runs, and cancel up to `limit` unfinished ones. Reply: their ids.

    None: the replay has ended.
    """

    replay: int
    error: Error
    now: int
    limit: int


class FinishReplay(Operation, kw_only=True):
    """End a replay that creates no more runs and has no unfinished ones. Reply: bool, False if it has."""

    replay: int
    now: int


class SaveSchedule(Operation, kw_only=True):
    """Insert (`version` 1) or replace a schedule. Reply: None, or why not: `taken`, `changed`, `full`."""

    schedule: Schedule
    most: int


class DeleteSchedule(Operation, kw_only=True):
    """Delete a schedule. Reply: bool, False if none has that name."""

    name: str


class Fire(Operation, kw_only=True):
    """Publish the events of firings of a schedule. Firings after `after` and up to `until` are done with it.

    `version`: of the schedule. `after` and `until` None: it was run by hand. `rules` as in `Publish`.
    Reply: `list[StoredEvent]`. None: the schedule was changed or fired meanwhile, and nothing is stored.
    """

    name: str
    version: int
    fired_at: int | None
    after: int | None = None
    until: int | None = None
    rules: int = 0
    events: list[NewEvent]


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
    Publish | Mark | Assign | Return | Stopped | Append | Settle | Cancel | CancelWaiting | Expire | Retry
    | RetryDead | Lead | SaveHandler | CreateKey | RevokeKey | RedeemTicket
    | OpenDurable | TakeDurable | ReleaseDurable | Acknowledge | DeleteDurable | CreateReplay | ReplayEvents
    | CancelReplay | FinishReplay | SaveSchedule | DeleteSchedule | Fire | PruneResults | PruneEvents
)  # fmt: skip
