"""Durable subscriptions: their names and the positions up to which they are acknowledged."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from busway.domain import cursor
from busway.domain.cursor import Position
from busway.gateway.store.core.constructs import among, at_most
from busway.gateway.store.core.ledger import Ledger
from busway.gateway.store.core.schema import durables, keys, results
from busway.gateway.store.core.transaction import Snapshot
from busway.gateway.store.port.operations import (
    Acknowledge,
    DeleteDurable,
    OpenDurable,
    Opened,
    ReleaseDurable,
    TakeDurable,
    Unmoved,
)
from busway.gateway.store.port.reader import DurableRecord


class DurableRow(msgspec.Struct, array_like=True):
    """A row of `durables`, with the type patterns of the key that created it."""

    name: str
    number: int
    digest: int
    created_at: int
    acknowledged_at: int | None
    generation: int
    holder: int | None
    types: str | None


# Older rows have no types of their own: their key is in the store.
_types = sa.func.coalesce(
    durables.c.types, sa.select(keys.c.types).where(keys.c.id == durables.c.key).scalar_subquery()
)
_columns = [durables.c[name] for name in DurableRow.__struct_fields__[:-1]]
_one = sa.select(*_columns, _types).where(durables.c.name == sa.bindparam("name"))
_page = (
    sa.select(*_columns, _types)
    .where(durables.c.name > sa.bindparam("after"))
    .order_by(durables.c.name)
    .limit(at_most())
)
_acknowledged = sa.select(results.c.number, results.c.run, results.c.attempt, results.c.time).where(
    among(results.c.number, sa.bindparam("numbers"))
)
_of_key = sa.func.count(sa.case((durables.c.key == sa.bindparam("key"), 1)))
_numbers = sa.select(sa.func.count(), _of_key).select_from(durables)
_forward = (
    sa.update(durables)
    .where(durables.c.name == sa.bindparam("which"), durables.c.number < sa.bindparam("new_number"))
    .values(
        number=sa.bindparam("new_number"),
        digest=sa.bindparam("new_digest"),
        acknowledged_at=sa.bindparam("moment"),
    )
)


_generations = sa.select(durables.c.name, durables.c.generation).where(
    among(durables.c.name, sa.bindparam("names"))
)
_take = (
    sa.update(durables)
    .where(durables.c.name == sa.bindparam("which"))
    .values(generation=durables.c.generation + 1, holder=sa.bindparam("node"))
)
_release = (
    sa.update(durables)
    .where(durables.c.name == sa.bindparam("which"), durables.c.generation == sa.bindparam("held"))
    .values(holder=None)
)


def open_durable(ledger: Ledger, operation: OpenDurable) -> Opened | None:
    """Take over a name. Create it at the requested position, if the limit allows."""
    taken = take_durable(ledger, operation)
    if taken is not None:
        return taken
    transaction = ledger.transaction
    ((total, own),) = transaction.fetch(_numbers, tuple[int, int], {"key": operation.key})
    if total >= operation.most or (operation.key is not None and own >= operation.most_of_key):
        return None
    position = {"number": operation.number, "digest": operation.digest}
    types = None if operation.types is None else msgspec.json.encode(operation.types).decode()
    row = {
        "name": operation.name,
        **position,
        "created_at": operation.now,
        "key": operation.key,
        "types": types,
    }
    transaction.execute(sa.insert(durables), {**row, "generation": 1, "holder": ledger.head.node})
    return Opened(operation.number, operation.digest, 1)


def take_durable(ledger: Ledger, operation: TakeDurable | OpenDurable) -> Opened | None:
    """Take over a name, if it exists."""
    transaction, name = ledger.transaction, operation.name
    known = find_durable(transaction, name)
    if known is None:
        return None
    transaction.execute(_take, {"which": name, "node": ledger.head.node})
    generation = known.generation + 1
    transaction.durable_taken(name, generation)
    return Opened(known.position.number, known.position.digest, generation)


def release_durable(ledger: Ledger, operation: ReleaseDurable) -> None:
    """Record that no subscription has this generation of a name."""
    ledger.transaction.execute(_release, {"which": operation.name, "held": operation.generation})


def acknowledge(ledger: Ledger, operation: Acknowledge) -> Unmoved:
    """Move subscriptions forward, never back."""
    transaction = ledger.transaction
    names = [name for name, *_ in operation.positions]
    current = dict(transaction.fetch(_generations, tuple[str, int], {"names": names}))
    taken_over = {name for name, _, _, generation in operation.positions if current.get(name) != generation}
    numbers = [number for _, number, *_ in operation.positions]
    rows = transaction.fetch(_acknowledged, tuple[int, int, int, int], {"numbers": numbers})
    known = {number: cursor.digest(number, run, attempt, time) for number, run, attempt, time in rows}
    floor = transaction.bounds().floor
    # A digest below the floor cannot be checked. It is harmless, because nobody can resume from there.
    valid = [
        (name, number, digest)
        for name, number, digest, _ in operation.positions
        if name not in taken_over and (number <= floor or known.get(number) == digest)
    ]
    if valid:
        moved = [
            {"which": name, "new_number": number, "new_digest": digest, "moment": operation.now}
            for name, number, digest in valid
        ]
        transaction.execute(_forward, moved)
    unknown = set(names).difference(taken_over, [name for name, _, _ in valid])
    return Unmoved(sorted(unknown), sorted(taken_over))


def delete_durable(ledger: Ledger, operation: DeleteDurable) -> bool:
    """Delete a subscription."""
    deleted = ledger.transaction.execute(sa.delete(durables).where(durables.c.name == operation.name))
    return bool(deleted.rowcount)


def find_durable(snapshot: Snapshot, name: str) -> DurableRecord | None:
    """Return one subscription."""
    rows = snapshot.fetch(_one, DurableRow, {"name": name})
    return _record(rows[0]) if rows else None


def find_durables(snapshot: Snapshot, after: str, limit: int) -> list[DurableRecord]:
    """Return up to `limit` subscriptions with a name above `after`, by name."""
    return [_record(row) for row in snapshot.fetch(_page, DurableRow, {"after": after, "limit": limit})]


def _record(row: DurableRow) -> DurableRecord:
    return DurableRecord(
        name=row.name,
        position=Position(row.number, row.digest),
        created_at=row.created_at,
        acknowledged_at=row.acknowledged_at,
        generation=row.generation,
        holder=row.holder,
        types=() if row.types is None else msgspec.json.decode(row.types, type=tuple[str, ...]),
    )
