"""Pruning for retention: the reader finds old rows in small ranges, the writer deletes them in small steps.

The result log is pruned from its start, so that it has no holes. Events are deleted as whole trees: a root
event and all events that its handlers published, directly or indirectly. A tree is deleted when all its runs
have ended, none of their results is stored and all its events are old. So no stored row refers to a deleted
row.
"""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from busway.domain import cursor
from busway.gateway.store.port.operations import Floor, PruneEvents, PruneResults
from busway.gateway.store.port.reader import Layer, OldRoots
from busway.gateway.store.sqlite import statements
from busway.gateway.store.sqlite.ledger import Ledger
from busway.gateway.store.sqlite.packed import fetch, pack
from busway.gateway.store.sqlite.schema import SUCCEEDED, events, head, results, runs

ROW_BYTES = 200  # size of a row without its data

_oldest = pack(
    sa.select(results.c.number, results.c.time, sa.func.coalesce(sa.func.length(results.c.data), 0))
    .where(results.c.number > sa.select(head.c.floor).scalar_subquery())
    .order_by(results.c.number)
    .limit(sa.bindparam("limit"))
)
_event_size = sa.func.coalesce(sa.func.length(events.c.data), 0)
_stretch = pack(
    sa.select(events.c.seq, events.c.accepted_at, events.c.root.is_(None), _event_size)
    .where(events.c.seq > sa.bindparam("after"))
    .order_by(events.c.seq)
    .limit(sa.bindparam("limit"))
)
_listed = sa.func.json_each(sa.bindparam("events")).table_valued("value")
_these = runs.c.event.in_(sa.select(_listed.c.value))
_kept = pack(
    sa.select(runs.c.event).where(
        _these,
        (runs.c.state < SUCCEEDED)
        | (sa.func.coalesce(runs.c.last_result, 1 << 62) > sa.select(head.c.floor).scalar_subquery()),
    )
)
_children = pack(
    sa.select(runs.c.event, events.c.seq, events.c.accepted_at, _event_size)
    .join(events, events.c.parent == runs.c.id)
    .where(_these)
)


def find_old_results(connection: sa.Connection, before: int, limit: int, max_bytes: int) -> int | None:
    """Implement `Reader.old_results`."""
    old = None
    for number, time, size in fetch(connection, _oldest, tuple[int, int, int], {"limit": limit}):
        if time < before:
            old = number
        max_bytes -= ROW_BYTES + size
        if max_bytes <= 0:
            break
    return old


def find_old_roots(connection: sa.Connection, after: int, before: int, limit: int) -> OldRoots:
    """Implement `Reader.old_roots`."""
    rows = fetch(connection, _stretch, tuple[int, int, int, int], {"after": after, "limit": limit})
    if not any(accepted_at < before for _, accepted_at, *_ in rows):
        return OldRoots([], None)
    roots = [
        (seq, ROW_BYTES + size)
        for seq, accepted_at, is_root, size in rows
        if is_root and accepted_at < before
    ]
    return OldRoots(roots, rows[-1][0] if len(rows) == limit else None)


def find_layer(connection: sa.Connection, among: list[int], before: int) -> Layer:
    """Implement `Reader.layer`."""
    which = {"events": msgspec.json.encode(among).decode()}
    kept = {seq for (seq,) in fetch(connection, _kept, tuple[int], which)}
    children = fetch(connection, _children, tuple[int, int, int, int], which)
    kept |= {parent for parent, _, accepted_at, _ in children if accepted_at >= before}
    return Layer(kept, [(parent, seq, ROW_BYTES + size) for parent, seq, _, size in children])


def prune_results(ledger: Ledger, operation: PruneResults) -> Floor:
    """Delete the oldest results and move the floor to the last of them."""
    ledger.flush()
    last = ledger.rows(statements.SELECT_RESULT, operation.until)
    if not last:
        number, digest = ledger.rows(statements.SELECT_FLOOR)[0]
        return Floor(number, digest, 0)
    floor = operation.until, cursor.digest(*last[0])
    removed = ledger.rows(statements.DELETE_RESULTS, operation.until)
    ledger.rows(statements.MOVE_FLOOR, *floor)
    return Floor(*floor, len(removed))


def prune_events(ledger: Ledger, operation: PruneEvents) -> int:
    """Delete trees, or the lower parts of large ones, that no stored row refers to."""
    ledger.flush()
    asked = {seq: place for place, tree in enumerate(operation.trees) for seq in tree}
    layer = find_layer(ledger.connection, list(asked), 1 << 62)
    kept = {asked[seq] for seq in layer.kept}
    kept |= {asked[parent] for parent, child, _ in layer.children if asked.get(child) != asked[parent]}
    gone = [seq for seq, place in asked.items() if place not in kept]
    if not gone:
        return 0
    listed = msgspec.json.encode(gone).decode()
    ended = ledger.rows(statements.DELETE_RUNS, listed)
    for _, handler, state in ended:
        ledger.counts[handler, state] -= 1
    ids = [id_ for id_, *_ in ended]
    ledger.rows(statements.DELETE_ATTEMPTS, msgspec.json.encode(ids).decode())
    ledger.forget(ids)
    return len(ledger.rows(statements.DELETE_EVENTS, listed))
