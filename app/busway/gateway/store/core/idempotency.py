"""Idempotency keys: a repeated publication stores nothing and gets the receipts of the first one."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import msgspec
import sqlalchemy as sa

from busway.domain.event import NewEvent
from busway.gateway.store.core.constructs import among, at_most, binary_payload
from busway.gateway.store.core.ledger import KnownKeys, Ledger
from busway.gateway.store.core.records import data_of
from busway.gateway.store.core.schema import idempotency_keys as keys
from busway.gateway.store.core.transaction import IDEMPOTENCY_KEY, Snapshot
from busway.gateway.store.port.once import IDEMPOTENT_FOR, KeptReceipt, NotStored, Once
from busway.gateway.store.port.operations import Publish, PublishEncoded, StoredEvent
from busway.gateway.store.port.retention import PruneKeys

_encode = msgspec.msgpack.Encoder().encode
_decode_receipts = msgspec.msgpack.Decoder(list[KeptReceipt]).decode
_of_owner = keys.c.owner == sa.bindparam("owner")
_bytes: sa.ColumnElement[int] = sa.literal_column("1")
_known = sa.select(keys.c.name, binary_payload(keys.c.digest, _bytes), keys.c.created_at).where(
    _of_owner, among(keys.c.name, sa.bindparam("names"))
)
_this = (_of_owner, keys.c.name == sa.bindparam("name"))
_receipts = sa.select(binary_payload(keys.c.receipts, _bytes)).where(*_this)
_numbers = sa.select(
    sa.select(sa.func.coalesce(sa.func.min(keys.c.number), 1)).where(_of_owner).scalar_subquery(),
    sa.select(sa.func.coalesce(sa.func.max(keys.c.number), 0)).where(_of_owner).scalar_subquery(),
)
_old = sa.select(keys.c.created_at).where(keys.c.created_at < sa.bindparam("before"))
_oldest = _old.order_by(keys.c.created_at).limit(at_most())


def store_once(
    ledger: Ledger, once: Once, each: Iterator[tuple[NewEvent, StoredEvent]]
) -> list[StoredEvent] | NotStored:
    """Store the events of a publication with an idempotency key, unless the key was used before.

    `each`: stores each event when it is asked for it.
    """
    known = ledger.keys
    if known is None:
        known = ledger.keys = _look_up(ledger)
    which = once.owner, once.key
    digest, at = known.digests.get(which, (None, 0))
    if digest is not None and at > once.now - IDEMPOTENT_FOR:
        return _repeat(ledger, once) if digest == once.digest else NotStored()
    first, last = known.numbers[once.owner]
    if last - first + 1 >= once.most:
        return NotStored(full=True)
    if digest is not None:
        ledger.flush()
        ledger.transaction.execute(sa.delete(keys).where(keys.c.owner == once.owner, keys.c.name == once.key))
    stored: list[StoredEvent] = []
    receipts: list[KeptReceipt] = []
    for new, one in each:
        runs = 0 if one.duplicate else len(new.handlers)
        stored.append(one)
        receipts.append((one.seq, new.id, new.source, new.type, runs, one.duplicate))
    row = (once.owner, once.key, last + 1, once.digest, _encode(receipts), once.now)
    ledger.add(IDEMPOTENCY_KEY, row)
    known.digests[which], known.numbers[once.owner] = (once.digest, once.now), (first, last + 1)
    return stored


def _repeat(ledger: Ledger, once: Once) -> NotStored:
    ledger.flush()  # the first one may be in the same transaction
    [(digits,)] = ledger.transaction.fetch(_receipts, tuple[str], {"owner": once.owner, "name": once.key})
    return NotStored(_decode_receipts(data_of(None, digits) or b""))


def _look_up(ledger: Ledger) -> KnownKeys:
    """Read what is known of all keys of the operations that are applied together."""
    wanted: defaultdict[int, list[str]] = defaultdict(list)
    for operation in ledger.operations:
        if isinstance(operation, Publish | PublishEncoded) and operation.once is not None:
            wanted[operation.once.owner].append(operation.once.key)
    known, fetch = KnownKeys(), ledger.transaction.fetch
    for owner, names in wanted.items():
        rows = fetch(_known, tuple[str, str, int], {"owner": owner, "names": names})
        for name, digits, at in rows:
            known.digests[owner, name] = data_of(None, digits) or b"", at
        [known.numbers[owner]] = fetch(_numbers, tuple[int, int], {"owner": owner})
    return known


def find_old_keys(snapshot: Snapshot, before: int) -> bool:
    """Implement `Reader.old_keys`."""
    return bool(snapshot.fetch(_oldest, tuple[int], {"before": before, "limit": 1}))


def prune_keys(ledger: Ledger, operation: PruneKeys) -> int:
    """Forget the oldest idempotency keys."""
    ledger.flush()
    which = {"before": operation.before, "limit": operation.limit}
    rows = ledger.transaction.fetch(_oldest, tuple[int], which)
    if not rows:
        return 0
    until = rows[-1][0]  # others of the same microsecond go with them
    return ledger.transaction.execute(sa.delete(keys).where(keys.c.created_at <= until)).rowcount
