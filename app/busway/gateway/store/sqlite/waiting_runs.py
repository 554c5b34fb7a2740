"""Reads of waiting runs, limited by number and bytes. Sizes are read first, then payloads."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

import msgspec
import sqlalchemy as sa

from busway.domain.run import Run
from busway.gateway.store.port.reader import KeyRuns
from busway.gateway.store.sqlite import records
from busway.gateway.store.sqlite.packed import fetch, pack
from busway.gateway.store.sqlite.schema import HAS_KEY, UNSTARTED, WAITING, events, runs

_waiting = sa.text(WAITING)
_size = sa.func.coalesce(sa.func.length(events.c.data), 0)
_sized = sa.select(runs.c.id, runs.c.priority, _size).join(events, events.c.seq == runs.c.event)
_of_handler = _sized.where(runs.c.handler == sa.bindparam("handler"), _waiting)
_at_once = (
    _of_handler.where(runs.c.due.is_(None))
    .order_by(runs.c.priority.desc(), runs.c.id)
    .limit(sa.bindparam("limit"))
)
_late = (
    _of_handler.where(sa.text("due IS NOT NULL"), runs.c.due <= sa.bindparam("now"))
    .order_by(runs.c.due)
    .limit(sa.bindparam("limit"))
)
_keyless = runs.c.partitionkey.is_(None)
_DUE = {
    False: (pack(_at_once), pack(_late)),
    True: (pack(_at_once.where(_keyless)), pack(_late.where(_keyless))),
}
_later = pack(
    _sized.where(_waiting, runs.c.due > sa.bindparam("after"), runs.c.due <= sa.bindparam("before"))
    .order_by(runs.c.due, runs.c.id)
    .limit(sa.bindparam("limit"))
)
_these = pack(
    sa.select(*records.WAITING_COLUMNS)
    .select_from(
        (ids := sa.func.json_each(sa.bindparam("ids")).table_valued("key", "value"))
        .join(runs, runs.c.id == ids.c.value)
        .join(events, events.c.seq == runs.c.event)
    )
    .order_by(ids.c.key)
    .limit(1 << 40)
)
# Each step is one index lookup, even if keys have many runs.
_keys = sa.text(f"""
    WITH RECURSIVE found(k) AS (
        SELECT min(partitionkey) FROM runs WHERE handler = :handler AND {HAS_KEY} AND partitionkey > :after
        UNION ALL
        SELECT (
            SELECT min(partitionkey) FROM runs WHERE handler = :handler AND {HAS_KEY} AND partitionkey > k
        ) FROM found WHERE k IS NOT NULL LIMIT :limit
    )
    SELECT json_group_array(k) FROM found WHERE k IS NOT NULL
""")  # noqa: S608 - made of constants
_first_of_keys = sa.text(f"""
    SELECT json_group_array(json_array(at, id, size)) FROM (
        SELECT wanted.key AS at, runs.id AS id, coalesce(length(events.data), 0) AS size
        FROM json_each(:keys) AS wanted JOIN runs ON runs.id IN (
            SELECT id FROM runs WHERE handler = :handler AND partitionkey = wanted.value AND {HAS_KEY}
            AND (attempt > 0 OR due IS NULL OR due <= :now) ORDER BY {UNSTARTED}, id LIMIT :limit
        ) JOIN events ON events.seq = runs.event
        ORDER BY wanted.key, runs.{UNSTARTED[1:-1]}, runs.id
    )
""")  # noqa: S608 - made of constants


class _Sized(msgspec.Struct, array_like=True):
    """A candidate: the run, its rank (priority, or index of its key) and the size of its data in bytes."""

    id: int
    rank: int
    size: int


def find_due(
    connection: sa.Connection, handler: int, limit: int, *, now: int, max_bytes: int, keyless: bool
) -> list[Run]:
    """Implement `Reader.waiting`."""
    which = {"handler": handler, "limit": limit, "now": now}
    found = [row for query in _DUE[keyless] for row in fetch(connection, query, _Sized, which)]
    found.sort(key=lambda row: (-row.rank, row.id))
    return _load(connection, _within(found[:limit], max_bytes))


def find_later(connection: sa.Connection, after: int, before: int, limit: int, max_bytes: int) -> list[Run]:
    """Implement `Reader.due`."""
    found = fetch(connection, _later, _Sized, {"after": after, "before": before, "limit": limit})
    return _load(connection, _within(found, max_bytes))


def find_keys(connection: sa.Connection, handler: int, after: str, limit: int) -> list[str]:
    """Implement `Reader.partition_keys`."""
    text = connection.execute(_keys, {"handler": handler, "after": after, "limit": limit}).scalar_one()
    return msgspec.json.decode(text, type=list[str])


def find_key_runs(
    connection: sa.Connection, handler: int, keys: list[str], now: int, per_key: int, max_bytes: int
) -> list[KeyRuns]:
    """Implement `Reader.key_runs`."""
    which = {"handler": handler, "keys": msgspec.json.encode(keys).decode(), "now": now, "limit": per_key + 1}
    text = connection.execute(_first_of_keys, which).scalar_one()
    found = [_Sized(id_, at, size) for at, id_, size in msgspec.json.decode(text)]
    within = _within(found, max_bytes)
    loaded = {run.id: run for run in _load(connection, within)}
    reached = len(keys) if len(within) == len(found) else within[-1].rank + 1
    ids = {at: [row.id for row in rows] for at, rows in groupby(found, lambda row: row.rank)}
    queues = []
    for at, key in enumerate(keys[:reached]):
        wanted = ids.get(at, [])
        runs = [loaded[id_] for id_ in wanted[:per_key] if id_ in loaded]
        queues.append(KeyRuns(key, runs, len(runs) < len(wanted)))
    return queues


def _within(found: list[_Sized], max_bytes: int) -> list[_Sized]:
    for count, row in enumerate(found, 1):
        max_bytes -= row.size
        if max_bytes <= 0:
            return found[:count]
    return found


def _load(connection: sa.Connection, rows: Iterable[_Sized]) -> list[Run]:
    ids = msgspec.json.encode([row.id for row in rows]).decode()
    return [records.waiting_run(row) for row in fetch(connection, _these, records.WaitingRow, {"ids": ids})]
