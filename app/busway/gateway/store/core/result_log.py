"""Reads of the result log, and of how the runs of one event have ended."""

from __future__ import annotations

import sqlalchemy as sa

from busway.domain.event import Event
from busway.domain.result import Result
from busway.gateway.store.core import listings, records
from busway.gateway.store.core.constructs import among, at_most
from busway.gateway.store.core.schema import SUCCEEDED, events, handlers, results, runs
from busway.gateway.store.core.transaction import Snapshot
from busway.gateway.store.port.correlated import MOST_EVENTS, SCANNED, Correlated
from busway.gateway.store.port.reader import Outcomes

_ROW_BYTES = 200  # size of a result without its data, in bytes
_next = results.c.number > sa.bindparam("after")
_size = sa.func.coalesce(sa.func.length(results.c.data), 0)
_sizes = sa.select(_size).where(_next).order_by(results.c.number).limit(at_most())
_sizes_with_events = (
    sa.select(_size, events.c.seq, listings.EVENT_BYTES)
    .join(events, events.c.seq == results.c.event)
    .where(_next)
    .order_by(results.c.number)
    .limit(at_most())
)
_results = (
    sa.select(*records.RESULT_COLUMNS)
    .join(events, events.c.seq == results.c.event)
    .join(handlers, handlers.c.id == results.c.handler)
    .where(_next)
    .order_by(results.c.number)
    .limit(at_most())
)
_events = sa.select(*records.EVENT_COLUMNS).where(among(events.c.seq, sa.bindparam("events")))
_of_event = (runs.c.event == sa.bindparam("event"), runs.c.replay.is_(None))
_unfinished = sa.select(sa.func.count()).where(*_of_event, runs.c.state < SUCCEEDED)
_last = (*_of_event, runs.c.state >= SUCCEEDED, results.c.number == runs.c.last_result)
_last_sizes = (
    sa.select(results.c.number, _size)
    .join_from(runs, results, results.c.run == runs.c.id)
    .where(*_last)
    .order_by(results.c.number)
    .limit(at_most())
)
_last_results = (
    sa.select(*records.RESULT_COLUMNS)
    .select_from(runs)
    .join(results, results.c.run == runs.c.id)
    .join(events, events.c.seq == results.c.event)
    .join(handlers, handlers.c.id == results.c.handler)
    .where(*_last, results.c.number <= sa.bindparam("until"))
    .order_by(results.c.number)
    .limit(at_most())
)
_named: sa.BindParameter[str] = sa.bindparam("correlationid", type_=sa.Text)
_seqs = (
    sa.select(events.c.seq)
    .where(
        events.c.seq.in_(
            sa.union_all(
                sa.select(events.c.seq).where(events.c.correlationid == _named).correlate(None),
                sa.select(events.c.seq)
                .where(events.c.id == _named, events.c.correlationid.is_(None))
                .correlate(None),
            )
        )
    )
    .limit(at_most())
)
_ends = sa.select(sa.func.max(runs.c.last_result), sa.func.count() - sa.func.count(runs.c.last_result)).where(
    among(runs.c.event, sa.bindparam("events"))
)
_numbers = (
    sa.select(results.c.number, _size)
    .where(
        results.c.number > sa.bindparam("after"),
        results.c.number <= sa.bindparam("until"),
        among(results.c.event, sa.bindparam("events")),
    )
    .order_by(results.c.number.desc())
    .limit(at_most())
)
_these = (
    sa.select(*records.RESULT_COLUMNS)
    .join(events, events.c.seq == results.c.event)
    .join(handlers, handlers.c.id == results.c.handler)
    .where(among(results.c.number, sa.bindparam("numbers")))
    .order_by(results.c.number.desc())
)


def find_correlated(
    snapshot: Snapshot, correlationid: str, after: int, until: int, limit: int, max_bytes: int
) -> Correlated | None:
    """Implement `Reader.correlated`. Runs that have ended say up to where there are results of theirs."""
    wanted = {"correlationid": correlationid, "limit": MOST_EVENTS + 1}
    seqs = [seq for (seq,) in snapshot.fetch(_seqs, tuple[int], wanted)]
    if len(seqs) > MOST_EVENTS:
        return None
    which = {"events": sorted(seqs)}
    [(last, open_)] = snapshot.fetch(_ends, tuple[int | None, int], which) if seqs else [(None, 0)]
    if not open_:
        until = min(until, last or 0)
    begin = max(after, until - SCANNED)
    span = {"after": begin, "until": until, "limit": limit, **which}
    found = snapshot.fetch(_numbers, tuple[int, int], span) if until > begin else []
    numbers = []
    for number, size in found:
        numbers.append(number)
        max_bytes -= _ROW_BYTES + size
        if max_bytes <= 0:
            break
    rows = snapshot.fetch(_these, records.ResultRow, {"numbers": sorted(numbers)}) if numbers else []
    stopped = len(numbers) == limit or len(numbers) < len(found)
    reached = numbers[-1] - 1 if stopped else min(begin, until)
    return Correlated([records.result(row) for row in rows], reached, until)


def find(snapshot: Snapshot, after: int, limit: int, max_bytes: int) -> list[Result]:
    """Implement `Reader.results`."""
    if limit == 1:  # the first result is read whatever its size
        return _results_within(snapshot, after, 1)
    within = 0
    for (size,) in snapshot.fetch(_sizes, tuple[int], {"after": after, "limit": limit}):
        within += 1
        max_bytes -= _ROW_BYTES + size
        if max_bytes <= 0:
            break
    return _results_within(snapshot, after, within)


def find_with_events(
    snapshot: Snapshot, after: int, limit: int, max_bytes: int
) -> list[tuple[Result, Event]]:
    """Implement `Reader.results_with_events`: read each event once."""
    within, seqs = 0, set[int]()
    bounds = {"after": after, "limit": limit}
    for size, seq, event_size in snapshot.fetch(_sizes_with_events, tuple[int, int, int], bounds):
        within += 1
        max_bytes -= _ROW_BYTES + size + (event_size if seq not in seqs else 0)
        seqs.add(seq)
        if max_bytes <= 0:
            break
    found = _results_within(snapshot, after, within)
    rows = snapshot.fetch(_events, records.EventRow, {"events": sorted(seqs)})
    known = {row.seq: records.event(row) for row in rows}
    return [(result, known[result.event.seq]) for result in found]


def _results_within(snapshot: Snapshot, after: int, within: int) -> list[Result]:
    if not within:
        return []
    rows = snapshot.fetch(_results, records.ResultRow, {"after": after, "limit": within})
    return [records.result(row) for row in rows]


def find_outcomes(snapshot: Snapshot, event: int, limit: int, max_bytes: int) -> Outcomes:
    """Implement `Reader.outcomes`."""
    which = {"event": event}
    [(unfinished,)] = snapshot.fetch(_unfinished, tuple[int], which)
    if unfinished:
        return Outcomes(unfinished, [], truncated=False)
    until, count = 0, 0
    sizes = snapshot.fetch(_last_sizes, tuple[int, int], {**which, "limit": limit + 1})
    for number, size in sizes[:limit]:
        until, count = number, count + 1
        max_bytes -= _ROW_BYTES + size
        if max_bytes <= 0:
            break
    rows = (
        snapshot.fetch(_last_results, records.ResultRow, {**which, "until": until, "limit": limit})
        if until
        else []
    )
    return Outcomes(0, [records.result(row) for row in rows], truncated=count < len(sizes))
