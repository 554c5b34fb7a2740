"""The audit log. Entries are made from the operation and its reply, so they cannot differ from the change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import sqlalchemy as sa

from busway.gateway.store.core.constructs import among, at_most
from busway.gateway.store.core.ledger import Ledger
from busway.gateway.store.core.schema import audit, handlers, node_names
from busway.gateway.store.core.transaction import Snapshot
from busway.gateway.store.port.audit import Audited, AuditQuery, AuditRecord, Entry, PruneAudit, Record
from busway.gateway.store.port.keys import RotateKey
from busway.gateway.store.port.operations import (
    Cancel,
    CancelReplay,
    CreateKey,
    CreateReplay,
    DeleteDurable,
    DeleteSchedule,
    Fire,
    Retry,
    RetryDead,
    RevokeKey,
    SaveHandler,
    SaveSchedule,
)
from busway.gateway.store.port.sources import DeleteSource, SaveSource

Described = tuple[str | None, dict[str, Any]]
"""The object of a change, and details."""

_newest = sa.select(sa.func.coalesce(sa.func.max(audit.c.id), 0))
_name = sa.select(handlers.c.name).where(handlers.c.id == sa.bindparam("id"))
_node = sa.select(node_names.c.name).where(node_names.c.id == audit.c.node).scalar_subquery()
_columns = [_node if name == "node" else audit.c[name] for name in AuditRecord.__struct_fields__]
_old = (
    sa.select(audit.c.id).where(audit.c.time < sa.bindparam("before")).order_by(audit.c.time).limit(at_most())
)
_prune = sa.delete(audit).where(audit.c.id.in_(_old))


def _save_handler(_ledger: Ledger, operation: SaveHandler, _reply: Any) -> Described | None:
    return operation.handler.name, {"revision": operation.handler.revision}


def _create_key(_ledger: Ledger, operation: CreateKey, reply: Any) -> Described | None:
    return str(reply), {"name": operation.name, "scopes": operation.scopes, "types": operation.types}


def _rotate_key(_ledger: Ledger, operation: RotateKey, reply: Any) -> Described | None:
    return None if reply is None else (str(operation.id), {"name": operation.key.name, "new": str(reply)})


def _revoke_key(_ledger: Ledger, operation: RevokeKey, reply: Any) -> Described | None:
    return (str(operation.id), {}) if reply else None


def _save_source(_ledger: Ledger, operation: SaveSource, reply: Any) -> Described | None:
    return (operation.source.name, {"kind": operation.source.kind}) if reply else None


def _named(
    _ledger: Ledger, operation: DeleteSource | DeleteSchedule | DeleteDurable, reply: Any
) -> Described | None:
    return (operation.name, {}) if reply else None


def _save_schedule(_ledger: Ledger, operation: SaveSchedule, reply: Any) -> Described | None:
    return (operation.schedule.name, {"version": operation.schedule.version}) if reply is None else None


def _fire(_ledger: Ledger, operation: Fire, reply: Any) -> Described | None:
    return None if reply is None else (operation.name, {"events": [stored.seq for stored in reply]})


def _create_replay(ledger: Ledger, operation: CreateReplay, reply: Any) -> Described | None:
    if not reply:
        return None
    asked = {name: getattr(operation, name) for name in ("types", "after", "before", "shadow")}
    return _handler(ledger, operation.handler), {"replay": str(reply), **asked}


def _cancel_replay(_ledger: Ledger, operation: CancelReplay, reply: Any) -> Described | None:
    return None if reply is None else (str(operation.replay), {"runs": len(reply)})


def _cancel(_ledger: Ledger, operation: Cancel, reply: Any) -> Described | None:
    return (str(operation.runs[0]), {"runs": len(reply)}) if reply else None


def _retry(_ledger: Ledger, operation: Retry, reply: Any) -> Described | None:
    return (str(operation.runs[0]), {"runs": len(reply.ids)}) if reply.ids else None


def _retry_dead(ledger: Ledger, operation: RetryDead, reply: Any) -> Described | None:
    handler = None if operation.handler is None else _handler(ledger, operation.handler)
    return (handler, {"state": operation.state.value, "runs": len(reply)}) if reply else None


_DESCRIBE: dict[type, Callable[[Ledger, Any, Any], Described | None]] = {
    SaveHandler: _save_handler,
    CreateKey: _create_key,
    RotateKey: _rotate_key,
    RevokeKey: _revoke_key,
    SaveSource: _save_source,
    DeleteSource: _named,
    SaveSchedule: _save_schedule,
    DeleteSchedule: _named,
    DeleteDurable: _named,
    Fire: _fire,
    CreateReplay: _create_replay,
    CancelReplay: _cancel_replay,
    Cancel: _cancel,
    Retry: _retry,
    RetryDead: _retry_dead,
}


def _handler(ledger: Ledger, number: int) -> str | None:
    rows = ledger.transaction.fetch(_name, tuple[str], {"id": number})
    return rows[0][0] if rows else None


def record_change(ledger: Ledger, operation: Audited, reply: Any) -> None:
    """Store the entry of an operation that was applied, unless it changed nothing."""
    described = _DESCRIBE[type(operation.operation)](ledger, operation.operation, reply)
    if described is not None:
        _insert(ledger, operation.entry, *described)


def record(ledger: Ledger, operation: Record) -> None:
    """Store an entry."""
    _insert(ledger, operation.entry, None, operation.details)


def _insert(ledger: Ledger, entry: Entry, found: str | None, details: dict[str, Any]) -> None:
    transaction = ledger.transaction
    ((newest,),) = transaction.fetch(_newest, tuple[int])
    object_ = found if entry.object is None else entry.object
    row = {
        "id": newest + 1,
        "time": entry.time,
        "actor": _text(entry.actor),
        "name": _text(entry.name),
        "address": _text(entry.address),
        "action": entry.action,
        "object": _text(object_),
        "details": msgspec.json.encode(details).decode() if details else None,
        "node": ledger.head.node,
    }
    transaction.execute(sa.insert(audit), row)


def _text(value: str | None) -> str | None:
    """Return text without NUL characters, which text of PostgreSQL cannot have."""
    return None if value is None else value.replace("\0", "�")


def prune(ledger: Ledger, operation: PruneAudit) -> int:
    """Delete old entries."""
    which = {"before": operation.before, "limit": operation.limit}
    return int(ledger.transaction.execute(_prune, which).rowcount)


def is_old(snapshot: Snapshot, before: int) -> bool:
    """Return whether there is an entry that is older than `before`."""
    return bool(snapshot.fetch(_old, tuple[int], {"before": before, "limit": 1}))


def find(snapshot: Snapshot, query: AuditQuery, limit: int) -> list[AuditRecord]:
    """Return up to `limit` entries, newest first."""
    found, which = select(query)
    return snapshot.fetch(found, AuditRecord, {**which, "limit": limit})


def select(query: AuditQuery) -> tuple[sa.Select[*tuple[Any, ...]], dict[str, Any]]:
    """Return the statement for a query, and its parameters but the limit."""
    conditions: list[sa.ColumnElement[bool]] = []
    which: dict[str, Any] = {}
    compared = (
        ("actor", audit.c.actor == sa.bindparam("actor")),
        ("actions", among(audit.c.action, sa.bindparam("actions"))),
        ("object", audit.c.object == sa.bindparam("object")),
        ("since", audit.c.time >= sa.bindparam("since")),
        ("until", audit.c.time < sa.bindparam("until")),
        ("before", audit.c.id < sa.bindparam("before")),
    )
    for name, condition in compared:
        value = getattr(query, name)
        if value is not None:
            conditions.append(condition)
            which[name] = value
    return sa.select(*_columns).where(*conditions).order_by(audit.c.id.desc()).limit(at_most()), which
