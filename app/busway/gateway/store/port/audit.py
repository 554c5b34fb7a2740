"""The audit log: who changed what. An entry is stored in the transaction of the change that it describes.

`acting` says who makes the changes of this context. `Commits` stores an entry with each operation in `Change`
that is submitted meanwhile, if the operation changes anything.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import msgspec

from busway.gateway.store.port.keys import RotateKey
from busway.gateway.store.port.operations import (
    Cancel,
    CancelReplay,
    CreateKey,
    CreateReplay,
    DeleteDurable,
    DeleteSchedule,
    Fire,
    Operation,
    Retry,
    RetryDead,
    RevokeKey,
    SaveHandler,
    SaveSchedule,
)
from busway.gateway.store.port.sources import DeleteSource, SaveSource

Change = (
    SaveHandler | CreateKey | RevokeKey | RotateKey | SaveSource | DeleteSource | SaveSchedule
    | DeleteSchedule | Fire | CreateReplay | CancelReplay | Cancel | Retry | RetryDead | DeleteDurable
)  # fmt: skip
"""The operations that may have an entry."""


class Entry(msgspec.Struct, array_like=True, frozen=True, kw_only=True):
    """Who asks for a change.

    Attributes:
        actor: `key:3`, `file:…` (a key of the keys file), `token:SUBJECT`, `open` (the gateway has no keys),
            or `cli` for a command on the database.
        name: of the key, the subject of the token, or the user of the system that runs the command.
        address: of the client. None: it is a command.
        action: noun and verb, such as `handler.paused`.
        object: its name or number. None: the change itself says it.
        time: microseconds since 1970.
    """

    actor: str
    name: str | None = None
    address: str | None = None
    action: str
    object: str | None = None
    time: int


class Audited(Operation, kw_only=True):
    """Apply an operation, and store an entry if it changes anything. Reply: that of the operation."""

    entry: Entry
    operation: Change


class Record(Operation, kw_only=True):
    """Store an entry about something that changes nothing in the store, such as a sign-in. Reply: None."""

    entry: Entry
    details: dict[str, Any] = msgspec.field(default_factory=dict)


class PruneAudit(Operation, kw_only=True):
    """Delete up to `limit` entries that are older than `before`. Reply: how many."""

    before: int
    limit: int


class AuditQuery(msgspec.Struct, kw_only=True):
    """Which entries to read, newest first. None: all.

    Attributes:
        actions: exactly these.
        since: at this time or later.
        until: before this time.
        before: with a smaller number.
    """

    actor: str | None = None
    actions: list[str] | None = None
    object: str | None = None
    since: int | None = None
    until: int | None = None
    before: int | None = None


class AuditRecord(msgspec.Struct, array_like=True):
    """A stored entry. `node`: the name of the node that wrote it, None if a command did."""

    id: int
    time: int
    actor: str
    name: str | None
    address: str | None
    action: str
    object: str | None
    details: str | None
    node: str | None


class WouldChange(Exception):
    """A dry run has come to the first change: all checks before it passed. Nothing was submitted."""


class Acting(msgspec.Struct):
    """Who asks for changes, until it is over.

    `dry_run`: nothing is submitted; `WouldChange` is raised instead. `changed`: the operations that were
    submitted with an entry. `object`: of the last one.
    """

    entry: Entry
    dry_run: bool = False
    over: bool = False
    changed: int = 0
    object: str | None = None


_acting: ContextVar[Acting | None] = ContextVar("busway-acting", default=None)


@contextmanager
def acting(entry: Entry, *, dry_run: bool = False) -> Iterator[Acting]:
    """Store this entry with changes that are submitted in this context, until the end of the `with`.

    With `dry_run`, the first change raises `WouldChange` instead.

    Tasks and timers that begin meanwhile inherit the context. What they change after its end has no entry.
    """
    who = Acting(entry, dry_run)
    before = _acting.get()
    _acting.set(who)
    try:
        yield who
    finally:
        who.over = True
        _acting.set(before)


def audited(operation: Operation) -> Operation:
    """Return the operation as it is sent: with an entry, if somebody asked for it in this context.

    Raises:
        WouldChange: it is a dry run.
    """
    who = _acting.get()
    if who is None or who.over or not isinstance(operation, Change):
        return operation
    if who.dry_run:
        raise WouldChange
    who.changed += 1
    who.object = who.entry.object or _name(operation)
    return Audited(entry=who.entry, operation=operation)


def _name(operation: Any) -> str | None:
    """Return the name of what an operation creates, for the log."""
    for field in ("handler", "source", "schedule"):
        if isinstance(named := getattr(operation, field, None), msgspec.Struct):
            return str(getattr(named, "name", "")) or None
    return getattr(operation, "name", None)


ACTIONS: Mapping[str, str] = {
    "handler.created": "a handler was created over HTTP",
    "handler.changed": "fields of a handler were changed",
    "handler.paused": "a handler was paused",
    "handler.resumed": "a handler was resumed",
    "handler.deleted": "a handler was deleted",
    "handler.secret_rotated": "a handler got a new secret for signatures",
    "replay.created": "a replay of a handler was started",
    "replay.cancelled": "a replay was cancelled",
    "run.cancelled": "a run was cancelled",
    "run.retried": "a run was retried",
    "runs.retried": "dead or cancelled runs were retried together",
    "event.cancelled": "the runs of an event and its tree were cancelled",
    "schedule.created": "a schedule was created",
    "schedule.changed": "fields of a schedule were changed",
    "schedule.paused": "a schedule was paused",
    "schedule.resumed": "a schedule was resumed",
    "schedule.run": "a schedule was fired by hand",
    "schedule.deleted": "a schedule was deleted",
    "source.created": "a source of webhooks was created",
    "source.changed": "fields of a source were changed",
    "source.deleted": "a source was deleted",
    "key.created": "an API key was created",
    "key.rotated": "an API key was replaced by another one",
    "key.revoked": "an API key was revoked",
    "subscription.deleted": "a durable subscription was deleted",
    "session.created": "a browser signed in",
}
"""All actions, with what each means."""
