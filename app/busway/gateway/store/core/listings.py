"""Lists of events and runs, newest first, with few reads of rows that do not match."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from busway.domain.pattern import Matcher, matcher
from busway.gateway.store.core import replays
from busway.gateway.store.core.constructs import among, at_most, text_bytes
from busway.gateway.store.core.records import (
    EVENT_COLUMNS,
    REVISION_COLUMNS,
    RUN_COLUMNS,
    ChildRow,
    EventRow,
    RevisionRow,
    RunRow,
)
from busway.gateway.store.core.schema import (
    CANCELLED,
    RUNNING,
    STATE_CODES,
    SUCCEEDED,
    WAITING,
    events,
    handler_revisions,
    handlers,
    runs,
)
from busway.gateway.store.core.transaction import Snapshot, ids
from busway.gateway.store.port.reader import EventQuery, RunQuery

EVENT_BYTES = sa.func.coalesce(sa.func.length(events.c.data), 0) + text_bytes(events.c.attributes)
"""The size of an event's data and attributes in bytes."""

_EVENT_SIZE = EVENT_BYTES + 100  # not more than that of its JSON document
_RUN_SIZE = text_bytes(runs.c.error) + 100
MANY_TYPES = 1_000  # above this number, a scan is faster than one query for each type
_CHUNK = 5_000
_older = (
    handler_revisions.c.handler == sa.bindparam("handler"),
    handler_revisions.c.revision < sa.bindparam("before"),
)
_revision_sizes = (
    sa.select(handler_revisions.c.revision, text_bytes(handler_revisions.c.fields) + 50)
    .where(*_older)
    .order_by(handler_revisions.c.revision.desc())
    .limit(at_most())
)
_revisions = (
    sa.select(*REVISION_COLUMNS)
    .where(*_older, handler_revisions.c.revision >= sa.bindparam("last"))
    .order_by(handler_revisions.c.revision.desc())
    .limit(at_most())
)


def find_events(snapshot: Snapshot, query: EventQuery, limit: int, max_bytes: int) -> list[EventRow]:
    """Implement `Reader.events`."""
    where = _event_conditions(query)
    pattern = query.type
    if query.within:
        return _find_within(snapshot, query, where, limit, max_bytes)
    if pattern is None or pattern == "**":
        return _newest(snapshot, where, limit, max_bytes)
    if "*" not in pattern:
        return _newest(snapshot, [*where, events.c.type == pattern], limit, max_bytes)
    types = _types(snapshot, pattern)
    if len(types) > MANY_TYPES:
        found = _scan_events(snapshot, where, matcher((pattern,)), limit)
    else:
        found = _newest_of(snapshot, where, filter(matcher((pattern,)), types), limit)
    return _newest(snapshot, [events.c.seq.in_(found)], limit, max_bytes) if found else []


def _find_within(
    snapshot: Snapshot,
    query: EventQuery,
    where: list[sa.ColumnElement[bool]],
    limit: int,
    max_bytes: int,
) -> list[EventRow]:
    """Return the newest events that match both the query and one of the patterns that limit it."""
    allowed, wanted = matcher(query.within), matcher(() if query.type is None else (query.type,))
    types: set[str] = set()
    for pattern in (query.type,) if query.type is not None and query.type != "**" else query.within:
        types.update(_types(snapshot, pattern) if "*" in pattern else (pattern,))
        if len(types) > MANY_TYPES:
            found = _scan_events(snapshot, where, lambda type_: allowed(type_) and wanted(type_), limit)
            break
    else:
        both = sorted(type_ for type_ in types if allowed(type_) and wanted(type_))
        found = _newest_of(snapshot, where, both, limit)
    return _newest(snapshot, [events.c.seq.in_(found)], limit, max_bytes) if found else []


def find_event_types(snapshot: Snapshot, seqs: list[int]) -> dict[int, str]:
    """Implement `Reader.event_types`."""
    found = sa.select(events.c.seq, events.c.type).where(among(events.c.seq, sa.bindparam("seqs")))
    return dict(snapshot.fetch(found, tuple[int, str], {"seqs": seqs}))


def find_children(
    snapshot: Snapshot, parents: list[int], after: int, limit: int, max_bytes: int
) -> list[ChildRow]:
    """Implement `Reader.children`."""
    which = {"parents": parents}
    where = [among(events.c.parent, sa.bindparam("parents")), events.c.seq > after]
    sizes = sa.select(events.c.seq, _EVENT_SIZE).where(*where).order_by(events.c.seq).limit(at_most(limit))
    last = _last(snapshot, sizes, max_bytes, which)
    if last is None:
        return []
    found = sa.select(*EVENT_COLUMNS, events.c.parent).where(*where, events.c.seq <= last)
    return snapshot.fetch(found.order_by(events.c.seq).limit(at_most(limit)), ChildRow, which)


def find_runs(snapshot: Snapshot, query: RunQuery, limit: int, max_bytes: int) -> list[RunRow]:
    """Implement `Reader.runs`."""
    where: list[sa.ColumnElement[bool]] = []
    if query.handler is not None:
        number = sa.select(handlers.c.id).where(handlers.c.name == query.handler)
        ended = query.state is not None and STATE_CODES[query.state] >= CANCELLED
        # Runs of a handler are many, those that were cancelled or died few: not by the index of handlers.
        of = sa.literal_column("+runs.handler", runs.c.handler.type) if ended else runs.c.handler
        where.append(of == number.scalar_subquery())
    if query.event is not None:
        where.append(runs.c.event == query.event)
    if query.before is not None:
        where.append(runs.c.id < query.before)
    if query.replay is not None:
        replay = replays.number_in_runs(snapshot, query.replay)
        states = STATE_CODES.values() if query.state is None else [STATE_CODES[query.state]]
        where.append(runs.c.id.in_(replays.ids_of(replay, states, [*where], runs.c.id.desc(), limit)))
    sizes = sa.select(runs.c.id, _RUN_SIZE).where(*where).order_by(runs.c.id.desc()).limit(at_most(limit))
    found = select_runs().where(*where).order_by(runs.c.id.desc()).limit(at_most(limit))
    if query.state is not None:
        state = STATE_CODES[query.state]
        sizes, found = _in_state(sizes, state), _in_state(found, state)
    last = _last(snapshot, sizes, max_bytes)
    return [] if last is None else snapshot.fetch(found.where(runs.c.id >= last), RunRow)


def find_revisions(
    snapshot: Snapshot, handler: int, before: int, limit: int, max_bytes: int
) -> list[RevisionRow]:
    """Implement `Reader.revisions`."""
    which = {"handler": handler, "before": before, "limit": limit}
    last = _last(snapshot, _revision_sizes, max_bytes, which)
    if last is None:
        return []
    return snapshot.fetch(_revisions, RevisionRow, which | {"last": last})


def find_runs_of(snapshot: Snapshot, seqs: list[int], after: int, limit: int, max_bytes: int) -> list[RunRow]:
    """Implement `Reader.runs_of`."""
    which = {"events": seqs}
    where = [among(runs.c.event, sa.bindparam("events")), runs.c.id > after]
    sizes = sa.select(runs.c.id, _RUN_SIZE).where(*where).order_by(runs.c.id).limit(at_most(limit))
    last = _last(snapshot, sizes, max_bytes, which)
    if last is None:
        return []
    found = select_runs().where(*where, runs.c.id <= last).order_by(runs.c.id).limit(at_most(limit))
    return snapshot.fetch(found, RunRow, which)


def _last(
    snapshot: Snapshot, sizes: sa.Select[Any], max_bytes: int, which: dict[str, Any] | None = None
) -> int | None:
    """Return the last number that still fits, at least the first one. None: there are no rows."""
    last = None
    for number, size in snapshot.fetch(sizes, tuple[int, int], which):
        last = number
        max_bytes -= size
        if max_bytes <= 0:
            break
    return last


def select_runs() -> sa.Select[Any]:
    """Return the query for `RunRow`."""
    return sa.select(*RUN_COLUMNS).join(handlers, handlers.c.id == runs.c.handler)


def _in_state(found: sa.Select[Any], state: int) -> sa.Select[Any]:
    """Filter by state with the condition of the partial index for it. Succeeded runs have none."""
    found = found.where(runs.c.state == state)
    if state == SUCCEEDED:
        return found
    if state == RUNNING:
        return found.where(sa.text("runs.state = 2"))
    if state >= CANCELLED:
        return found.where(sa.text("runs.state >= 4"))
    waiting = [
        sa.select(runs.c.id).where(sa.text(WAITING), due).correlate(None)
        for due in (runs.c.due.is_(None), runs.c.due.is_not(None))
    ]
    return found.where(runs.c.id.in_(sa.union_all(*waiting)))


def _event_conditions(query: EventQuery) -> list[sa.ColumnElement[bool]]:
    where: list[sa.ColumnElement[bool]] = []
    if query.before is not None:
        where.append(events.c.seq < query.before)
    for name in ("id", "source", "subject"):
        value = getattr(query, name)
        if value is not None:
            where.append(events.c[name] == value)
    if query.correlationid is not None:
        root = (events.c.id == query.correlationid) & events.c.correlationid.is_(None)
        where.append((events.c.correlationid == query.correlationid) | root)
    return where


def _newest(
    snapshot: Snapshot, where: list[sa.ColumnElement[bool]], limit: int, max_bytes: int
) -> list[EventRow]:
    sizes = (
        sa.select(events.c.seq, _EVENT_SIZE).where(*where).order_by(events.c.seq.desc()).limit(at_most(limit))
    )
    last = _last(snapshot, sizes, max_bytes)
    if last is None:
        return []
    found = sa.select(*EVENT_COLUMNS).where(*where, events.c.seq >= last)
    return snapshot.fetch(found.order_by(events.c.seq.desc()).limit(at_most(limit)), EventRow)


def _types(snapshot: Snapshot, pattern: str) -> list[str]:
    """Return the stored types that start with the pattern's literal prefix, one index lookup for each."""
    start = pattern[: pattern.index("*")]
    first = sa.select(sa.func.min(events.c.type).label("type")).where(events.c.type >= start)
    hop = first.cte("hop", recursive=True)
    following = sa.select(sa.func.min(events.c.type)).where(events.c.type > hop.c.type).scalar_subquery()
    within: sa.ColumnElement[bool] = hop.c.type.is_not(None)
    if start:
        within &= hop.c.type < start[:-1] + chr(ord(start[-1]) + 1)
    hop = hop.union_all(sa.select(following).where(within))
    found = sa.select(hop.c.type).where(hop.c.type.is_not(None)).limit(at_most(MANY_TYPES + 1))
    return [type_ for (type_,) in snapshot.fetch(found, tuple[str])]


def _newest_of(
    snapshot: Snapshot, where: list[sa.ColumnElement[bool]], types: Iterable[str], limit: int
) -> list[int]:
    """Merge the newest events of each type. Later types skip events older than the current result."""
    newest: list[int] = []
    floor = 0
    found = sa.select(events.c.seq).where(*where, events.c.type == sa.bindparam("wanted"))
    found = (
        found.where(events.c.seq > sa.bindparam("floor")).order_by(events.c.seq.desc()).limit(at_most(limit))
    )
    for type_ in types:
        rows = snapshot.fetch(found, tuple[int], {"wanted": type_, "floor": floor})
        newest = heapq.nlargest(limit, newest + ids(rows))
        floor = newest[-1] if len(newest) == limit else 0
    return newest


def _scan_events(
    snapshot: Snapshot, where: list[sa.ColumnElement[bool]], matches: Matcher, limit: int
) -> list[int]:
    found: list[int] = []
    chunk = sa.select(events.c.seq, events.c.type).where(*where, events.c.seq < sa.bindparam("position"))
    chunk = chunk.order_by(events.c.seq.desc()).limit(at_most(_CHUNK))
    rows = snapshot.fetch(chunk, tuple[int, str], {"position": 1 << 62})
    while rows and len(found) < limit:
        found += [seq for seq, type_ in rows if matches(type_)]
        rows = snapshot.fetch(chunk, tuple[int, str], {"position": rows[-1][0]})
    return found[:limit]


_above = (
    sa.select(events.c.type, runs.c.event)
    .outerjoin(runs, runs.c.id == events.c.parent)
    .where(events.c.seq == sa.bindparam("seq"))
)


def find_chain(snapshot: Snapshot, seq: int | None, limit: int) -> list[str]:
    """Return the types of an event and of those that it descends from, at most so many, oldest first."""
    types: list[str] = []
    while seq is not None and len(types) < limit:
        found = snapshot.fetch(_above, tuple[str, int | None], {"seq": seq})
        if not found:
            break
        type_, seq = found[0]
        types.append(type_)
    return types[::-1]
