"""Handlers and API keys: small tables that rarely change."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from busway.domain.handler import Handler
from busway.gateway.store.core.constructs import binary_payload
from busway.gateway.store.core.ledger import Ledger
from busway.gateway.store.core.records import data_of
from busway.gateway.store.core.schema import handler_revisions, handlers, keys
from busway.gateway.store.core.transaction import Snapshot
from busway.gateway.store.port.operations import CreateKey, RevokeKey, SaveHandler
from busway.gateway.store.port.reader import KeyRecord


class _KeyRow(msgspec.Struct, array_like=True):
    id: int
    name: str
    digits: str
    scopes: str
    created_at: int
    expires_at: int | None
    revoked_at: int | None


_revision = sa.select(handler_revisions.c.revision).where(
    handler_revisions.c.handler == sa.bindparam("handler"),
    handler_revisions.c.revision == sa.bindparam("revision"),
)
_key = sa.select(keys.c.id).where(keys.c.id == sa.bindparam("id"))
_all_keys = sa.select(
    keys.c.id,
    keys.c.name,
    binary_payload(keys.c.digest, sa.literal_column("1")),
    keys.c.scopes,
    keys.c.created_at,
    keys.c.expires_at,
    keys.c.revoked_at,
).order_by(keys.c.id)


def save_handler(ledger: Ledger, operation: SaveHandler) -> int:
    """Insert or replace a handler, and add a new revision to its history."""
    handler, execute = operation.handler, ledger.transaction.execute
    row = _row(handler)
    if handler.id:
        execute(sa.update(handlers).where(handlers.c.id == handler.id), row)
        number = handler.id
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
    }
    return _new_id(ledger.transaction.execute(sa.insert(keys), row))


def revoke_key(ledger: Ledger, operation: RevokeKey) -> bool:
    """Revoke an API key. A revoked key does not change."""
    known = ledger.transaction.fetch(_key, tuple[int], {"id": operation.id})
    ledger.transaction.execute(
        sa.update(keys).where(keys.c.id == operation.id, keys.c.revoked_at.is_(None)),
        {"revoked_at": operation.now},
    )
    return bool(known)


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
        )
        for row in snapshot.fetch(_all_keys, _KeyRow)
    ]
