"""Reading keys, for the gateway and for the command line."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from app.store.base import KeyRecord
from app.store.schema import keys


def select_keys(connection: sa.Connection) -> list[KeyRecord]:
    """Return all keys, revoked ones too, oldest first."""
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
