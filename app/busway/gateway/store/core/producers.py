"""Producers: how many lines of each upload were taken, in the same transaction as their events."""

from __future__ import annotations

import sqlalchemy as sa

from busway.gateway.store.core import publishing
from busway.gateway.store.core.ledger import Ledger
from busway.gateway.store.core.schema import producers
from busway.gateway.store.core.transaction import Snapshot
from busway.gateway.store.port.reader import ProducerRecord
from busway.gateway.store.port.uploads import Upload, Uploaded

_one = sa.select(*(producers.c[name] for name in ProducerRecord.__struct_fields__)).where(
    producers.c.id == sa.bindparam("id")
)
_lines = sa.select(producers.c.lines).where(producers.c.id == sa.bindparam("id"))
_later = producers.alias()
_newest = (
    sa.select(_later.c.updated_at)
    .order_by(_later.c.updated_at.desc())
    .limit(sa.literal(1, sa.BigInteger))
    .offset(sa.bindparam("most", type_=sa.BigInteger))
    .scalar_subquery()
)
# Two statements: for one with OR, newer versions of SQLite read the whole table.
_forget_old = sa.delete(producers).where(producers.c.updated_at < sa.bindparam("oldest"))
_forget_most = sa.delete(producers).where(producers.c.updated_at <= _newest)
_advance = (
    sa.update(producers)
    .where(producers.c.id == sa.bindparam("which"))
    .values(
        {
            name: producers.c[name] + sa.bindparam(f"new_{name}")
            for name in ("lines", "accepted", "duplicates", "rejected")
        }
        | {"updated_at": sa.bindparam("moment")}
    )
)


def upload(ledger: Ledger, operation: Upload) -> Uploaded:
    """Store the events of the next lines of a producer, if it stands at the first of them."""
    transaction, id_ = ledger.transaction, operation.producer
    known = transaction.fetch(_lines, tuple[int], {"id": id_})
    lines = known[0][0] if known else 0
    if lines != operation.first:
        return Uploaded(lines, None)
    stored = [publishing.store(ledger, new) for new in operation.events]
    duplicates = sum(one.duplicate for one in stored)
    counts = {
        "lines": operation.lines,
        "accepted": len(stored) - duplicates,
        "duplicates": duplicates,
        "rejected": operation.rejected,
    }
    if known:
        added = {f"new_{name}": count for name, count in counts.items()}
        transaction.execute(_advance, {"which": id_, "moment": operation.now, **added})
    else:
        transaction.execute(_forget_old, {"oldest": operation.oldest})
        transaction.execute(_forget_most, {"most": operation.most - 1})
        times = {"created_at": operation.now, "updated_at": operation.now}
        transaction.execute(sa.insert(producers), {"id": id_, **counts, **times})
    return Uploaded(lines + operation.lines, stored)


def find_producer(snapshot: Snapshot, id_: str) -> ProducerRecord | None:
    """Return how far a producer has come."""
    return next(iter(snapshot.fetch(_one, ProducerRecord, {"id": id_})), None)
