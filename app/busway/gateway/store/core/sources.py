"""Sources of webhooks: a small table."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from busway.domain.source import Source
from busway.gateway.store.core.ledger import Ledger
from busway.gateway.store.core.schema import sources
from busway.gateway.store.core.transaction import Snapshot
from busway.gateway.store.port.sources import DeleteSource, SaveSource

_OWN = ("name", "kind", "secret", "previous_secret", "previous_until", "created_at", "updated_at")
_OTHERS = tuple(name for name in Source.__struct_fields__ if name not in _OWN)


class _Row(msgspec.Struct, array_like=True):
    name: str
    kind: str
    secret: str
    previous_secret: str | None
    previous_until: int | None
    created_at: int
    updated_at: int
    fields: str


_all = sa.select(*(sources.c[name] for name in _Row.__struct_fields__)).order_by(sources.c.name)
_one = sa.select(sources.c.updated_at).where(sources.c.name == sa.bindparam("name"))


def save_source(ledger: Ledger, operation: SaveSource) -> bool:
    """Insert or replace a source, unless it was changed meanwhile."""
    source, transaction = operation.source, ledger.transaction
    found = transaction.fetch(_one, tuple[int], {"name": source.name})
    if (found[0][0] if found else 0) != operation.seen:
        return False
    fields = msgspec.json.encode({name: getattr(source, name) for name in _OTHERS}).decode()
    row = {name: getattr(source, name) for name in _OWN} | {"fields": fields}
    transaction.execute(sa.delete(sources).where(sources.c.name == source.name))
    transaction.execute(sa.insert(sources), row)
    transaction.keys_changed()
    return True


def delete_source(ledger: Ledger, operation: DeleteSource) -> bool:
    """Delete a source."""
    transaction = ledger.transaction
    if not transaction.fetch(_one, tuple[int], {"name": operation.name}):
        return False
    transaction.execute(sa.delete(sources).where(sources.c.name == operation.name))
    transaction.keys_changed()
    return True


def find_sources(snapshot: Snapshot) -> list[Source]:
    """Return all sources, by name."""
    return [
        msgspec.convert({name: getattr(row, name) for name in _OWN} | msgspec.json.decode(row.fields), Source)
        for row in snapshot.fetch(_all, _Row)
    ]
