"""Builds `Committed`, the notification of a commit, from the committer's replies."""

from __future__ import annotations

from typing import Any

import msgspec

from busway.domain.cursor import Position
from busway.domain.event import NewEvent, partition_key, to_event
from busway.domain.result import Result, result_event
from busway.domain.run import WAITING, Run
from busway.gateway.store.group.queues import QueuedOperation
from busway.gateway.store.port.commits import Committed
from busway.gateway.store.port.once import NotStored
from busway.gateway.store.port.operations import (
    Append,
    Cancel,
    CancelReplay,
    CancelWaiting,
    Expire,
    Fire,
    Lead,
    NewResult,
    Operation,
    PruneResults,
    Publish,
    ReplayEvents,
    Retry,
    RetryDead,
    Return,
    SaveHandler,
    Settle,
    Settled,
    StoredEvent,
)
from busway.gateway.store.port.uploads import Uploaded


def add_reply(committed: Committed, entry: QueuedOperation, reply: Any, known: int) -> None:
    """Add the changes of one operation to `committed`.

    Args:
        committed: the notification, extended in place.
        entry: the operation.
        reply: the committer's reply to it.
        known: number of the newest result in earlier notifications. Results up to it are not added again.
    """
    operation = entry.operation
    if isinstance(operation, Settle):
        _add_settled(committed, entry, operation, reply, known)
    elif isinstance(operation, Publish):
        _add_published(committed, operation, reply)
    elif isinstance(operation, Append):
        if reply > known and entry.run is not None:
            result = _result(entry, entry.run, operation, operation.result, reply, None)
            committed.results.append((result, entry.run.event))
    elif isinstance(operation, Cancel | CancelWaiting | CancelReplay | Expire | Lead | Return):
        _add_ended(committed, operation, reply)
    elif isinstance(operation, Retry):
        _withdraw(committed, [run.id for run in reply.runs])
        committed.ended.extend(run.id for run in reply.runs)  # release the old state; `runs` has the new one
        committed.runs.extend(reply.runs)
        committed.rescan |= len(reply.ids) > len(reply.runs)
    elif isinstance(operation, SaveHandler):
        committed.handlers.append(msgspec.structs.replace(operation.handler, id=reply))
        committed.rules = operation.rules and operation.rules + 1
        committed.rescan |= bool(operation.notices)
    elif isinstance(operation, PruneResults):
        committed.floor = Position(reply.number, reply.digest)
    elif reply:
        _add_rare(committed, operation, reply)


def _add_rare(committed: Committed, operation: Operation, reply: Any) -> None:
    if isinstance(operation, RetryDead):
        committed.rescan = True
    elif isinstance(operation, Fire):
        committed.runs.extend(new_runs(operation.events, reply))
    elif isinstance(operation, ReplayEvents):
        committed.runs.extend(reply)


def _add_published(committed: Committed, operation: Publish, reply: list[StoredEvent] | Uploaded) -> None:
    stored = reply.stored if isinstance(reply, Uploaded) else reply
    if stored is not None:
        committed.runs.extend(new_runs(operation.events, stored))


def _add_ended(committed: Committed, operation: Operation, reply: Any) -> None:
    ids = [operation.run] if isinstance(operation, Return) else reply or []
    _withdraw(committed, ids)
    committed.ended.extend(ids)
    if isinstance(operation, Lead | Return):
        committed.rescan |= bool(reply)  # they wait again
    if isinstance(operation, Lead):
        committed.rescan |= bool(operation.notices)


def _withdraw(committed: Committed, ids: list[int]) -> None:
    """Remove runs that an earlier operation of the same commit has added."""
    if ids and committed.runs:
        gone = set(ids)
        committed.runs = [run for run in committed.runs if run.id not in gone]


def add_refusal(committed: Committed, entry: QueuedOperation, why: str) -> None:
    """Add an operation that the store refused to `committed`, if it is an outcome or a partial."""
    if isinstance(entry.operation, Settle | Append):
        committed.refused.append((entry.operation, why))


def new_runs(events: list[NewEvent], stored: list[StoredEvent] | NotStored) -> list[Run]:
    """Return the runs that new events start."""
    runs: list[Run] = []
    if isinstance(stored, NotStored):
        return runs
    for new, one in zip(events, stored, strict=True):
        if one.duplicate or not new.handlers:
            continue
        event, due, since = to_event(new, one.seq), new.due, new.accepted_at
        if due is not None and due > since:
            since = due
        key = partition_key(new.attributes) if new.attributes else None
        for id_, handler in enumerate(new.handlers, one.first_run):
            runs.append(
                Run(
                    id=id_,
                    event=event,
                    handler=handler,
                    priority=new.priority,
                    due=due,
                    since=since,
                    expires_at=new.expires_at,
                    key=key,
                )
            )
    return runs


def _add_settled(
    committed: Committed, entry: QueuedOperation, operation: Settle, reply: Settled, known: int
) -> None:
    run = entry.run
    committed.ended.append(operation.run)
    if run is None or not reply.accepted:
        committed.rescan = True
        return
    if operation.result is not None and reply.number > known:
        result = _result(entry, run, operation, operation.result, reply.number, reply.completes)
        committed.results.append((result, run.event))
    if operation.published:
        committed.runs.extend(new_runs(operation.published, reply.stored))
    if reply.paused is not None:
        committed.handlers.append(reply.paused)
        committed.rescan = True  # for the event about it
        if reply.rules == operation.rules + 1:  # else this node lacks other changes, and reads them
            committed.rules = reply.rules
    if operation.state in WAITING:
        waiting = msgspec.structs.replace(
            run,
            attempt=operation.attempt,
            lost=operation.lost,
            granted=reply.granted,
            fence=0,
            due=operation.due,
            since=max(operation.due or 0, operation.report.finished_at),
        )
        committed.runs.append(waiting)


def _result(
    entry: QueuedOperation,
    run: Run,
    operation: Settle | Append,
    new: NewResult,
    number: int,
    completes: bytes | None,
) -> Result:
    revision = operation.report.revision if isinstance(operation, Settle) else operation.revision
    return Result(
        number=number,
        kind=new.kind,
        event=result_event(run.event),
        handler=entry.handler,
        revision=revision,
        run=run.id,
        attempt=operation.attempt,
        index=new.index,
        data=new.data,
        binary=new.binary,
        error=new.error,
        completes=completes,
        replay=run.replay,
        time=new.time,
    )
