"""Durable subscriptions: their names and the positions up to which they are acknowledged."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects import sqlite

from busway.domain import cursor
from busway.domain.cursor import Position
from busway.gateway.store.port.operations import Acknowledge, DeleteDurable, OpenDurable
from busway.gateway.store.port.reader import DurableRecord
from busway.gateway.store.sqlite.ledger import Ledger
from busway.gateway.store.sqlite.packed import fetch, pack
from busway.gateway.store.sqlite.schema import durables, head, results


class DurableRow(msgspec.Struct, array_like=True):
    """A row of `durables`."""

    name: str
    number: int
    digest: int
    created_at: int
    acknowledged_at: int | None


_columns = [durables.c[name] for name in DurableRow.__struct_fields__]
_one = pack(sa.select(*_columns).where(durables.c.name == sa.bindparam("name")))
_page = pack(
    sa.select(*_columns)
    .where(durables.c.name > sa.bindparam("after"))
    .order_by(durables.c.name)
    .limit(sa.bindparam("limit"))
)
_numbers = sa.func.json_each(sa.bindparam("numbers")).table_valued("value").c.value
_acknowledged = sa.select(results.c.number, results.c.run, results.c.attempt, results.c.time).where(
    results.c.number.in_(sa.select(_numbers))
)
_forward = (
    sa.update(durables)
    .where(durables.c.name == sa.bindparam("which"), durables.c.number < sa.bindparam("new_number"))
    .values(
        number=sa.bindparam("new_number"),
        digest=sa.bindparam("new_digest"),
        acknowledged_at=sa.bindparam("moment"),
    )
)


def open_durable(ledger: Ledger, operation: OpenDurable) -> tuple[int, int] | None:
    """Return the position of a subscription. Create it at the requested one, if the limit allows."""
    connection = ledger.connection
    known = find_durable(connection, operation.name)
    if known is not None:
        return known.position.number, known.position.digest
    of_key = sa.func.count(sa.case((durables.c.key == operation.key, 1)))
    total, own = connection.execute(sa.select(sa.func.count(), of_key).select_from(durables)).one()
    if total >= operation.most or (operation.key is not None and own >= operation.most_of_key):
        return None
    position = {"number": operation.number, "digest": operation.digest}
    row = {"name": operation.name, **position, "created_at": operation.now, "key": operation.key}
    connection.execute(sqlite.insert(durables), row)
    return operation.number, operation.digest


def acknowledge(ledger: Ledger, operation: Acknowledge) -> list[str]:
    """Move subscriptions forward, never back. Return the names whose position is not in this log."""
    connection = ledger.connection
    numbers = msgspec.json.encode([number for _, number, _ in operation.positions]).decode()
    rows = connection.execute(_acknowledged, {"numbers": numbers})
    known = {row.number: cursor.digest(row.number, row.run, row.attempt, row.time) for row in rows}
    floor = connection.execute(sa.select(head.c.floor)).scalar_one()
    # A digest below the floor cannot be checked. It is harmless, because nobody can resume from there.
    valid = [
        (name, number, digest)
        for name, number, digest in operation.positions
        if number <= floor or known.get(number) == digest
    ]
    if valid:
        moved = [
            {"which": name, "new_number": number, "new_digest": digest, "moment": operation.now}
            for name, number, digest in valid
        ]
        connection.execute(_forward, moved)
    accepted = {name for name, _, _ in valid}
    return [name for name, _, _ in operation.positions if name not in accepted]


def delete_durable(ledger: Ledger, operation: DeleteDurable) -> bool:
    """Delete a subscription."""
    deleted = ledger.connection.execute(sa.delete(durables).where(durables.c.name == operation.name))
    return bool(deleted.rowcount)


def find_durable(connection: sa.Connection, name: str) -> DurableRecord | None:
    """Return one subscription."""
    rows = fetch(connection, _one, DurableRow, {"name": name})
    return _record(rows[0]) if rows else None


def find_durables(connection: sa.Connection, after: str, limit: int) -> list[DurableRecord]:
    """Return up to `limit` subscriptions with a name above `after`, by name."""
    return [_record(row) for row in fetch(connection, _page, DurableRow, {"after": after, "limit": limit})]


def _record(row: DurableRow) -> DurableRecord:
    return DurableRecord(
        name=row.name,
        position=Position(row.number, row.digest),
        created_at=row.created_at,
        acknowledged_at=row.acknowledged_at,
    )
