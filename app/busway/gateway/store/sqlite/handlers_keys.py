"""Handlers and API keys: small tables that rarely change."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from busway.domain.handler import Handler
from busway.gateway.store.port.operations import CreateKey, RevokeKey, SaveHandler
from busway.gateway.store.port.reader import KeyRecord
from busway.gateway.store.sqlite.ledger import Ledger
from busway.gateway.store.sqlite.schema import handler_revisions, handlers, keys


def save_handler(ledger: Ledger, operation: SaveHandler) -> int:
    """Insert or replace a handler, and add a new revision to its history."""
    handler = operation.handler
    row = _row(handler)
    if handler.id:
        ledger.connection.execute(sa.update(handlers).where(handlers.c.id == handler.id), row)
        number = handler.id
    else:
        number = _new_id(ledger.connection.execute(sa.insert(handlers), row))
    ledger.connection.execute(
        sqlite.insert(handler_revisions).on_conflict_do_nothing(),
        {
            "handler": number,
            "revision": handler.revision,
            "created_at": handler.updated_at,
            "fields": _json(operation.fields),
            "file_digest": handler.file_digest,
        },
    )
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
    return _new_id(ledger.connection.execute(sa.insert(keys), row))


def revoke_key(ledger: Ledger, operation: RevokeKey) -> bool:
    """Revoke an API key. A revoked key does not change."""
    known = ledger.connection.execute(sa.select(keys.c.id).where(keys.c.id == operation.id)).first()
    ledger.connection.execute(
        sa.update(keys).where(keys.c.id == operation.id, keys.c.revoked_at.is_(None)),
        {"revoked_at": operation.now},
    )
    return known is not None


def _row(handler: Handler) -> dict[str, Any]:
    return {
        "name": handler.name,
        "revision": handler.revision,
        "declared": None if handler.declared is None else _json(handler.declared),
        "overrides": _json(handler.overrides),
        "file_digest": handler.file_digest,
        "missing": handler.missing,
        "deleted": handler.deleted,
        "created_at": handler.created_at,
        "updated_at": handler.updated_at,
    }


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()


def _new_id(inserted: sa.CursorResult[Any]) -> int:
    return int(inserted.lastrowid)


def select_keys(connection: sa.Connection) -> list[KeyRecord]:
    """Return all API keys, including revoked ones, oldest first."""
    return [
        KeyRecord(
            id=row.id,
            name=row.name,
            digest=row.digest,
            scopes=msgspec.json.decode(row.scopes),
            created_at=row.created_at,
            expires_at=row.expires_at,
            revoked_at=row.revoked_at,
        )
        for row in connection.execute(sa.select(keys).order_by(keys.c.id))
    ]
