"""Handlers, API keys and used tickets: small tables."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from busway.domain.handler import Handler
from busway.gateway.store.core import breakers, publishing, replays
from busway.gateway.store.core.constructs import binary_payload
from busway.gateway.store.core.ledger import Ledger, Outdated
from busway.gateway.store.core.records import data_of
from busway.gateway.store.core.schema import handler_revisions, handlers, keys, tickets
from busway.gateway.store.core.transaction import Snapshot
from busway.gateway.store.port.keys import RotateKey, UseKeys
from busway.gateway.store.port.operations import (
    CreateKey,
    Publish,
    RedeemTicket,
    RevokeKey,
    SaveHandler,
)
from busway.gateway.store.port.reader import KeyRecord

USE_EVERY = 60_000_000  # microseconds between two records of the use of a key


class _KeyRow(msgspec.Struct, array_like=True):
    id: int
    name: str
    digits: str
    scopes: str
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    types: str | None
    last_used_at: int | None


_updated = sa.select(handlers.c.updated_at).where(handlers.c.id == sa.bindparam("id"))
_revision = sa.select(handler_revisions.c.revision).where(
    handler_revisions.c.handler == sa.bindparam("handler"),
    handler_revisions.c.revision == sa.bindparam("revision"),
)
_key = sa.select(keys.c.id).where(keys.c.id == sa.bindparam("id"))
_is_valid = keys.c.revoked_at.is_(None) & (
    keys.c.expires_at.is_(None) | (keys.c.expires_at > sa.bindparam("now"))
)
_until = sa.bindparam("until", type_=sa.BigInteger)
_end = (
    sa.update(keys)
    .where(keys.c.id == sa.bindparam("which"), _is_valid)
    .values(expires_at=sa.case((keys.c.expires_at < _until, keys.c.expires_at), else_=_until))
)
_use = (
    sa.update(keys)
    .where(
        keys.c.id == sa.bindparam("which"),
        keys.c.last_used_at.is_(None) | (keys.c.last_used_at <= sa.bindparam("before")),
    )
    .values(last_used_at=sa.bindparam("now", type_=sa.BigInteger))
)
_ticket = sa.select(tickets.c.until).where(tickets.c.id == sa.bindparam("id"))
_expired = sa.delete(tickets).where(tickets.c.until < sa.bindparam("now"))
_all_keys = sa.select(
    keys.c.id,
    keys.c.name,
    binary_payload(keys.c.digest, sa.literal_column("1")),
    keys.c.scopes,
    keys.c.created_at,
    keys.c.expires_at,
    keys.c.revoked_at,
    keys.c.types,
    keys.c.last_used_at,
).order_by(keys.c.id)


def save_handler(ledger: Ledger, operation: SaveHandler) -> int | Outdated:
    """Insert or replace a handler, and add a new revision to its history. Its breaker may have paused it."""
    handler, execute = operation.handler, ledger.transaction.execute
    if operation.seen and ledger.transaction.fetch(_updated, tuple[int], {"id": handler.id}) != [
        (operation.seen,)
    ]:
        return Outdated()
    if operation.resets_breaker:
        breakers.forget(ledger, handler.id)
    publishing.publish(ledger, Publish(events=operation.notices))
    row = _row(handler)
    if handler.id:
        execute(sa.update(handlers).where(handlers.c.id == handler.id), row)
        number = handler.id
        if handler.deleted:
            replays.end_of_handler(ledger, number)
    else:
        number = _new_id(execute(sa.insert(handlers), row))
    which = {"handler": number, "revision": handler.revision}
    if not ledger.transaction.fetch(_revision, tuple[int], which):
        new = {"created_at": handler.updated_at, "fields": _json(operation.fields)}
        execute(sa.insert(handler_revisions), which | new | {"file_digest": handler.file_digest})
    return number


def create_key(ledger: Ledger, operation: CreateKey) -> int:
    """Store the digest of an API key."""
    row = {
        "name": operation.name,
        "digest": operation.digest,
        "scopes": _json(operation.scopes),
        "created_at": operation.now,
        "expires_at": operation.expires_at,
        "types": None if operation.types is None else _json(operation.types),
    }
    ledger.transaction.keys_changed()
    return _new_id(ledger.transaction.execute(sa.insert(keys), row))


def revoke_key(ledger: Ledger, operation: RevokeKey) -> bool:
    """Revoke an API key. A revoked key does not change."""
    known = ledger.transaction.fetch(_key, tuple[int], {"id": operation.id})
    ledger.transaction.execute(
        sa.update(keys).where(keys.c.id == operation.id, keys.c.revoked_at.is_(None)),
        {"revoked_at": operation.now},
    )
    ledger.transaction.keys_changed()
    return bool(known)


def rotate_key(ledger: Ledger, operation: RotateKey) -> int | None:
    """Store a new key, and let the one that it replaces expire."""
    new = operation.key
    which = {"which": operation.id, "now": new.now, "until": operation.until}
    if not ledger.transaction.execute(_end, which).rowcount:
        return None
    return create_key(ledger, new)


def use_keys(ledger: Ledger, operation: UseKeys) -> None:
    """Record the last use of keys, for which other nodes did not do so within the last minute."""
    at = {"now": operation.now, "before": operation.now - USE_EVERY}
    ledger.transaction.execute(_use, [{"which": id_, **at} for id_ in operation.ids])


def redeem_ticket(ledger: Ledger, operation: RedeemTicket) -> bool:
    """Record that a ticket was used. Return False if it was used before. Forget those that have expired."""
    transaction, which = ledger.transaction, {"id": operation.id}
    if transaction.fetch(_ticket, tuple[int], which):
        return False
    transaction.execute(_expired, {"now": operation.now})
    transaction.execute(sa.insert(tickets), {**which, "until": operation.until})
    return True


def _row(handler: Handler) -> dict[str, Any]:
    return {
        "name": handler.name,
        "revision": handler.revision,
        "declared": None if handler.declared is None else _json(handler.declared),
        "overrides": _json(handler.overrides),
        "file_digest": handler.file_digest,
        "missing": int(handler.missing),
        "deleted": int(handler.deleted),
        "created_at": handler.created_at,
        "updated_at": handler.updated_at,
        "secrets": _json(handler.secrets) if handler.secrets else None,
        "pause": None if handler.pause is None else _json(handler.pause),
    }


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _new_id(inserted: sa.CursorResult[Any]) -> int:
    return int(next(iter(inserted.inserted_primary_key or ())))


def find_keys(snapshot: Snapshot) -> list[KeyRecord]:
    """Return all API keys, including revoked ones, oldest first."""
    return [
        KeyRecord(
            id=row.id,
            name=row.name,
            digest=data_of(None, row.digits) or b"",
            scopes=msgspec.json.decode(row.scopes),
            created_at=row.created_at,
            expires_at=row.expires_at,
            revoked_at=row.revoked_at,
            types=None if row.types is None else msgspec.json.decode(row.types),
            last_used_at=row.last_used_at,
        )
        for row in snapshot.fetch(_all_keys, _KeyRow)
    ]
