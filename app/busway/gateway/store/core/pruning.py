"""Pruning for retention: the reader finds old rows in small ranges, the writer deletes them in small steps.

The result log is pruned from its start, so that it has no holes. Events are deleted as whole trees: a root
event and all events that its handlers published, directly or indirectly. A tree is deleted when all its runs
have ended, none of their results is stored and all its events are old. So no stored row refers to a deleted
row.
"""

from __future__ import annotations

import sqlalchemy as sa

from busway.domain import cursor
from busway.gateway.store.core.constructs import among, at_most
from busway.gateway.store.core.ledger import Ledger
from busway.gateway.store.core.schema import SUCCEEDED, events, results, runs
from busway.gateway.store.core.transaction import Snapshot, ids
from busway.gateway.store.port.operations import Floor, PruneEvents, PruneResults
from busway.gateway.store.port.reader import Layer, OldRoots

ROW_BYTES = 200  # size of a row without its data

_oldest = (
    sa.select(results.c.number, results.c.time, sa.func.coalesce(sa.func.length(results.c.data), 0))
    .where(results.c.number > sa.bindparam("floor"))
    .order_by(results.c.number)
    .limit(at_most())
)
_last = sa.select(results.c.number, results.c.run, results.c.attempt, results.c.time).where(
    results.c.number == sa.bindparam("number")
)
_event_size = sa.func.coalesce(sa.func.length(events.c.data), 0)
_stretch = (
    sa.select(events.c.seq, events.c.accepted_at, events.c.root.is_(None), _event_size)
    .where(events.c.seq > sa.bindparam("after"))
    .order_by(events.c.seq)
    .limit(at_most())
)
_these = among(runs.c.event, sa.bindparam("events"))
_kept = sa.select(runs.c.event).where(
    _these,
    (runs.c.state < SUCCEEDED)
    | (sa.func.coalesce(runs.c.last_result, sa.literal_column(str(1 << 62))) > sa.bindparam("floor")),
)
_children = (
    sa.select(runs.c.event, events.c.seq, events.c.accepted_at, _event_size)
    .join(events, events.c.parent == runs.c.id)
    .where(_these)
)


def find_old_results(snapshot: Snapshot, before: int, limit: int, max_bytes: int) -> int | None:
    """Implement `Reader.old_results`."""
    old = None
    which = {"floor": snapshot.bounds().floor, "limit": limit}
    for number, time, size in snapshot.fetch(_oldest, tuple[int, int, int], which):
        if time < before:
            old = number
        max_bytes -= ROW_BYTES + size
        if max_bytes <= 0:
            break
    return old


def find_old_roots(snapshot: Snapshot, after: int, before: int, limit: int) -> OldRoots:
    """Implement `Reader.old_roots`."""
    rows = snapshot.fetch(_stretch, tuple[int, int, int, int], {"after": after, "limit": limit})
    if not any(accepted_at < before for _, accepted_at, *_ in rows):
        return OldRoots([], None)
    roots = [
        (seq, ROW_BYTES + size)
        for seq, accepted_at, is_root, size in rows
        if is_root and accepted_at < before
    ]
    return OldRoots(roots, rows[-1][0] if len(rows) == limit else None)


def find_layer(snapshot: Snapshot, old: list[int], before: int) -> Layer:
    """Implement `Reader.layer`."""
    which = {"events": old, "floor": snapshot.bounds().floor}
    kept = set(ids(snapshot.fetch(_kept, tuple[int], which)))
    children = snapshot.fetch(_children, tuple[int, int, int, int], {"events": old})
    kept |= {parent for parent, _, accepted_at, _ in children if accepted_at >= before}
    return Layer(kept, [(parent, seq, ROW_BYTES + size) for parent, seq, _, size in children])


def prune_results(ledger: Ledger, operation: PruneResults) -> Floor:
    """Delete the oldest results and move the floor to the last of them."""
    ledger.flush()
    transaction, until = ledger.transaction, operation.until
    last = transaction.fetch(_last, tuple[int, int, int, int], {"number": until})
    if not last:
        bounds = transaction.bounds()
        return Floor(bounds.floor, bounds.floor_digest, 0)
    digest = cursor.digest(*last[0])
    return Floor(until, digest, transaction.prune_results(until, digest))


def prune_events(ledger: Ledger, operation: PruneEvents) -> int:
    """Delete trees, or the lower parts of large ones, that no stored row refers to."""
    ledger.flush()
    asked = {seq: place for place, tree in enumerate(operation.trees) for seq in tree}
    layer = find_layer(ledger.transaction, list(asked), 1 << 62)
    kept = {asked[seq] for seq in layer.kept}
    kept |= {asked[parent] for parent, child, _ in layer.children if asked.get(child) != asked[parent]}
    gone = [seq for seq, place in asked.items() if place not in kept]
    if not gone:
        return 0
    ended, removed = ledger.transaction.prune_events(gone)
    for _, handler, state in ended:
        ledger.counts[handler, state] -= 1
    ledger.forget((id_ for id_, *_ in ended), gone)
    return removed
