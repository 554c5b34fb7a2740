"""Reads of waiting runs, limited by number and bytes. Sizes are read first, then payloads."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

import msgspec
import sqlalchemy as sa

from busway.domain.run import Run
from busway.gateway.store.core.constructs import among, at_most
from busway.gateway.store.core.records import (
    RUNNING_COLUMNS,
    WAITING_COLUMNS,
    RunningRow,
    WaitingRow,
    read_waiting,
    running_run,
    waiting_run,
)
from busway.gateway.store.core.schema import WAITING, events, handlers, runs
from busway.gateway.store.core.transaction import Snapshot
from busway.gateway.store.port.reader import KeyRuns, RunningRun, WaitingRuns

_waiting = sa.text(WAITING)
_size = sa.func.coalesce(sa.func.length(events.c.data), 0)
_sized = sa.select(runs.c.id, runs.c.priority, _size).join(events, events.c.seq == runs.c.event)
_of_handler = _sized.where(runs.c.handler == sa.bindparam("handler"), _waiting)
_at_once = (
    _of_handler.where(runs.c.due.is_(None)).order_by(runs.c.priority.desc(), runs.c.id).limit(at_most())
)
_late = (
    _of_handler.where(sa.text("due IS NOT NULL"), runs.c.due <= sa.bindparam("now"))
    .order_by(runs.c.due)
    .limit(at_most())
)
_keyless = runs.c.partitionkey.is_(None)
_DUE = {
    False: (_at_once, _late),
    True: (_at_once.where(_keyless), _late.where(_keyless)),
}
_these = _sized.where(among(runs.c.id, sa.bindparam("ids")), _waiting).order_by(runs.c.id)
_one = (
    sa.select(*WAITING_COLUMNS)
    .join(events, events.c.seq == runs.c.event)
    .where(runs.c.id == sa.bindparam("id"), _waiting)
)
_running = (
    sa.select(*RUNNING_COLUMNS)
    .join(events, events.c.seq == runs.c.event)
    .where(sa.text("state = 2"))
    .order_by(runs.c.id)
)
_running_of = _running.where(among(runs.c.id, sa.bindparam("ids")))
_any = (
    sa.select(*WAITING_COLUMNS)
    .join(events, events.c.seq == runs.c.event)
    .where(among(runs.c.id, sa.bindparam("ids")))
    .order_by(runs.c.id)
)
_later = (
    _sized.where(_waiting, runs.c.due > sa.bindparam("after"), runs.c.due <= sa.bindparam("before"))
    .order_by(runs.c.due, runs.c.id)
    .limit(at_most())
)


def _first(priority: int) -> sa.ScalarSelect[int]:
    """Select since when the first run of a priority waits. Of that priority it is the oldest, or nearly."""
    return (
        sa.select(sa.func.coalesce(runs.c.available_at, runs.c.created_at))
        .where(runs.c.handler == handlers.c.id, runs.c.priority == sa.literal_column(str(priority)))
        .where(_waiting, runs.c.due.is_(None))
        .order_by(runs.c.id)
        .limit(at_most(1))
        .scalar_subquery()
    )


_first_due = (
    sa.select(runs.c.due)
    .where(runs.c.handler == handlers.c.id, _waiting, sa.text("due IS NOT NULL"))
    .order_by(runs.c.due)
    .limit(at_most(1))
    .scalar_subquery()
)
_oldest = sa.select(handlers.c.id, _first_due, *map(_first, range(-1, 10))).where(handlers.c.deleted == 0)


class _Sized(msgspec.Struct, array_like=True):
    """A candidate: the run, its rank (priority, or index of its key) and the size of its data in bytes."""

    id: int
    rank: int
    size: int


def find_oldest(snapshot: Snapshot, now: int) -> dict[int, int]:
    """Return since when the longest waiting run of each handler could have started."""
    found = {}
    for handler, *times in snapshot.fetch(_oldest, tuple[int | None, ...]):
        known = [time for time in times if time is not None and time <= now]
        if handler is not None and known:
            found[handler] = min(known)
    return found


def find_due(
    snapshot: Snapshot, handler: int, limit: int, *, now: int, max_bytes: int, keyless: bool
) -> list[Run]:
    """Implement `Reader.waiting`."""
    which = {"handler": handler, "limit": limit}
    at_once, late = _DUE[keyless]
    found = snapshot.fetch(at_once, _Sized, which) + snapshot.fetch(late, _Sized, which | {"now": now})
    found.sort(key=lambda row: (-row.rank, row.id))
    return _load(snapshot, _within(found[:limit], max_bytes))


def find_of(snapshot: Snapshot, ids: list[int], max_bytes: int) -> WaitingRuns:
    """Implement `Reader.waiting_of`."""
    if len(ids) == 1:  # the first run is read whatever its size
        rows = snapshot.fetch(_one, WaitingRow, {"id": ids[0]})
        return WaitingRuns([waiting_run(row) for row in rows], False)
    found = snapshot.fetch(_these, _Sized, {"ids": ids})
    within = _within(found, max_bytes)
    return WaitingRuns(_load(snapshot, within), len(within) < len(found))


def find_running(snapshot: Snapshot, ids: list[int] | None) -> list[RunningRun]:
    """Implement `Reader.running`."""
    if ids is None:
        rows = snapshot.fetch(_running, RunningRow)
    else:
        rows = snapshot.fetch(_running_of, RunningRow, {"ids": ids})
    return [running_run(row) for row in rows]


def find_lingering(snapshot: Snapshot) -> list[RunningRun]:
    """Implement `Reader.lingering`."""
    known = {id_: (node, key) for id_, node, key in snapshot.lingering()}
    found = []
    for row in snapshot.fetch(_any, WaitingRow, {"ids": [*known]}) if known else ():
        node, key = known[row.run]
        run = msgspec.structs.replace(waiting_run(row), key=key)
        found.append(RunningRun(run, run.attempt, 0, "", node))
    return found


def find_later(snapshot: Snapshot, after: int, before: int, limit: int, max_bytes: int) -> list[Run]:
    """Implement `Reader.due`."""
    found = snapshot.fetch(_later, _Sized, {"after": after, "before": before, "limit": limit})
    return _load(snapshot, _within(found, max_bytes))


def find_key_runs(
    snapshot: Snapshot, handler: int, keys: list[str], now: int, per_key: int, max_bytes: int
) -> list[KeyRuns]:
    """Implement `Reader.key_runs`."""
    found = [
        _Sized(id_, at, size) for at, id_, size in snapshot.first_of_keys(handler, keys, now, per_key + 1)
    ]
    within = _within(found, max_bytes)
    loaded = {run.id: run for run in _load(snapshot, within)}
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


def _load(snapshot: Snapshot, rows: Iterable[_Sized]) -> list[Run]:
    return read_waiting(snapshot, [row.id for row in rows])
