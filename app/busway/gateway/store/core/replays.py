"""Replays: their rows, the search for events to run again, and the runs that they create in steps.

A step names the position that it starts from, and the replay's row the position reached so far. A step that
does not continue there does nothing. So no event is run twice, also if a step is sent twice, or by two nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
import sqlalchemy as sa

from busway.domain.event import Event
from busway.domain.pattern import matcher
from busway.domain.replay import ReplayState, signed
from busway.domain.result import Result
from busway.domain.run import FINAL, Run
from busway.gateway.store.core import records, run_changes
from busway.gateway.store.core.constructs import among, at_most
from busway.gateway.store.core.ledger import Ledger
from busway.gateway.store.core.schema import (
    OUTSIDE,
    REPLAY_STATES,
    RUNNING,
    STATE_CODES,
    STATES,
    SUCCEEDED,
    events,
    handlers,
    replays,
    results,
    runs,
)
from busway.gateway.store.core.transaction import REPLAY_RUN, Snapshot, ids
from busway.gateway.store.port.operations import CancelReplay, CreateReplay, FinishReplay, ReplayEvents
from busway.gateway.store.port.reader import PastEvents, ReplayRecord, ReplayResult
from busway.gateway.store.port.retention import PruneReplays

BEHIND = -1  # priority: runs of replays start when no other run of their handler waits
LOOK = 2_000  # events in one read
ROW_BYTES = 200  # size of an event or result without its data

_MAX_ID = sa.select(sa.func.coalesce(sa.func.max(replays.c.id), 0))
_UNFINISHED = sa.select(sa.func.count()).select_from(replays).where(sa.text("finished_at IS NULL"))


class _Row(msgspec.Struct, array_like=True):
    id: int
    handler: int
    name: str
    types: str
    after: int
    before: int
    shadow: int
    state: int
    matched: int
    created: int
    position: int
    created_at: int
    finished_at: int | None
    counts: str | None


_columns = [handlers.c.name if name == "name" else replays.c[name] for name in _Row.__struct_fields__]
_all = sa.select(*_columns).join(handlers, handlers.c.id == replays.c.handler)
_unfinished = _all.where(sa.text("replays.finished_at IS NULL")).order_by(replays.c.id)
_one = _all.where(replays.c.id == sa.bindparam("id"))
_page = _all.where(replays.c.id < sa.bindparam("before_id")).order_by(replays.c.id.desc()).limit(at_most())
_page_of = _page.where(handlers.c.name == sa.bindparam("name"))
_counts = (
    sa.select(runs.c.state, sa.func.count())
    .where(runs.c.replay == sa.bindparam("replay"))
    .group_by(runs.c.state)
)
_left = (
    sa.select(runs.c.id)
    .where(runs.c.replay == sa.bindparam("replay"), runs.c.state <= RUNNING)
    .limit(at_most())
)
_left_count = sa.select(sa.func.count()).select_from(_left.subquery())
_size = sa.func.coalesce(sa.func.length(events.c.data), 0)
_stretch = (
    sa.select(events.c.seq, events.c.type, _size)
    .where(events.c.seq > sa.bindparam("after"), events.c.seq < sa.bindparam("before"))
    .order_by(events.c.seq)
    .limit(at_most())
)
_these = sa.select(*records.EVENT_COLUMNS).where(among(events.c.seq, sa.bindparam("events")))
_roots = sa.select(events.c.seq, sa.func.coalesce(events.c.root, events.c.seq)).where(
    among(events.c.seq, sa.bindparam("events"))
)
_others = replays.alias()
_in_runs = sa.case((replays.c.shadow == sa.literal_column("1"), -replays.c.id), else_=replays.c.id)
_old = (
    sa.select(replays.c.id)
    .where(
        replays.c.finished_at < sa.bindparam("before"),
        replays.c.id < sa.select(sa.func.max(_others.c.id)).scalar_subquery(),
        ~sa.exists().where(runs.c.replay == _in_runs),
    )
    .order_by(replays.c.id)
    .limit(at_most())
)
_live = sa.select(handlers.c.id).where(handlers.c.id == sa.bindparam("id"), handlers.c.deleted == 0)


# -- operations


def create(ledger: Ledger, operation: CreateReplay) -> int | None:
    """Insert a replay, unless there are too many or its handler is deleted."""
    ledger.flush()
    if not ledger.transaction.fetch(_live, tuple[int], {"id": operation.handler}):
        return None
    ((running,),) = ledger.transaction.fetch(_UNFINISHED, tuple[int])
    if running >= operation.most:
        return 0
    ((last,),) = ledger.transaction.fetch(_MAX_ID, tuple[int])
    row = {
        "id": last + 1,
        "handler": operation.handler,
        "types": msgspec.json.encode(operation.types).decode(),
        "after": operation.after,
        "before": operation.before,
        "shadow": int(operation.shadow),
        "state": REPLAY_STATES.index(ReplayState.RUNNING),
        "matched": 0,
        "created": 0,
        "position": operation.after,
        "created_at": operation.now,
    }
    ledger.transaction.execute(sa.insert(replays), row)
    ledger.transaction.replays_changed()
    return last + 1


def run_events(ledger: Ledger, operation: ReplayEvents) -> list[Run]:
    """Create runs for events that are still stored, and move the position."""
    row = _read(ledger, operation.replay)
    if row is None or row.state or row.finished_at is not None or row.position != operation.after:
        return []
    found = ledger.transaction.fetch(_roots, tuple[int, int], {"events": operation.events})
    replay, first = signed(row.id, shadow=bool(row.shadow)), ledger.head.run + 1
    for run, (seq, root) in enumerate(sorted(found), first):
        ledger.add(REPLAY_RUN, (run, seq, row.handler, root, BEHIND, operation.now, OUTSIDE, replay))
    ledger.head.run += len(found)
    ledger.counts[row.handler, 0] += len(found)
    _update(
        ledger,
        row.id,
        position=operation.until,
        matched=row.matched + len(operation.events),
        created=row.created + len(found),
    )
    ledger.flush()
    return records.read_waiting(ledger.transaction, list(range(first, first + len(found))))


def cancel(ledger: Ledger, operation: CancelReplay) -> list[int] | None:
    """Create no more runs, and cancel some of the unfinished ones."""
    row = _read(ledger, operation.replay)
    if row is None or row.finished_at is not None:
        return None
    _update(ledger, row.id, state=REPLAY_STATES.index(ReplayState.CANCELLED))
    ledger.transaction.replays_changed()
    which = {"replay": signed(row.id, shadow=bool(row.shadow)), "limit": operation.limit}
    left = ids(ledger.transaction.fetch(_left, tuple[int], which))
    return run_changes.cancel_runs(ledger, ledger.load(left), operation.error, operation.now)


def end_of_handler(ledger: Ledger, handler: int) -> None:
    """Let the replays of a handler create no more runs: it is deleted."""
    unfinished = sa.update(replays).where(replays.c.handler == handler, sa.text("finished_at IS NULL"))
    ledger.transaction.execute(unfinished.values(state=REPLAY_STATES.index(ReplayState.CANCELLED)))


def finish(ledger: Ledger, operation: FinishReplay) -> bool:
    """End a replay that has no unfinished runs and creates no more."""
    row = _read(ledger, operation.replay)
    if row is None or row.finished_at is not None or not (row.state or row.position >= row.before - 1):
        return False
    counts = _counted(ledger.transaction, row)
    if any(STATE_CODES[state] <= RUNNING for state in STATES if counts.get(state)):
        return False
    state = row.state or REPLAY_STATES.index(ReplayState.DONE)
    text = msgspec.json.encode(counts).decode()
    _update(ledger, row.id, state=state, finished_at=operation.now, counts=text)
    return True


def prune(ledger: Ledger, operation: PruneReplays) -> int:
    """Remove replays that finished long ago and have no stored runs."""
    ledger.flush()
    which = {"before": operation.before, "limit": operation.limit}
    old = ids(ledger.transaction.fetch(_old, tuple[int], which))
    ledger.transaction.execute(sa.delete(replays).where(replays.c.id.in_(old)))
    return len(old)


def _read(ledger: Ledger, replay: int) -> _Row | None:
    ledger.flush()
    return next(iter(ledger.transaction.fetch(_one, _Row, {"id": replay})), None)


def _update(ledger: Ledger, replay: int, **values: Any) -> None:
    ledger.transaction.execute(sa.update(replays).where(replays.c.id == replay).values(**values))


# -- reads


def find(snapshot: Snapshot, replay: int) -> ReplayRecord | None:
    """Implement `Reader.replay`."""
    return next((_record(snapshot, row) for row in snapshot.fetch(_one, _Row, {"id": replay})), None)


def number_in_runs(snapshot: Snapshot, replay: int) -> int:
    """Return the number that the runs of a replay have, 0 if there is no such replay."""
    rows = snapshot.fetch(_one, _Row, {"id": replay})
    return signed(replay, shadow=bool(rows[0].shadow)) if rows else 0


def find_page(snapshot: Snapshot, handler: str | None, before: int, limit: int) -> list[ReplayRecord]:
    """Implement `Reader.replays`."""
    which: dict[str, Any] = {"before_id": before, "limit": limit}
    if handler is None:
        rows = snapshot.fetch(_page, _Row, which)
    else:
        rows = snapshot.fetch(_page_of, _Row, {**which, "name": handler})
    return [_record(snapshot, row) for row in rows]


def find_unfinished(snapshot: Snapshot, most: int) -> list[tuple[ReplayRecord, int]]:
    """Implement `Reader.unfinished_replays`."""
    found = []
    for row in snapshot.fetch(_unfinished, _Row):
        which = {"replay": signed(row.id, shadow=bool(row.shadow)), "limit": most}
        ((left,),) = snapshot.fetch(_left_count, tuple[int], which)
        found.append((_shown(row, {}), left))
    return found


def find_old(snapshot: Snapshot, before: int) -> bool:
    """Implement `Reader.old_replays`."""
    return bool(snapshot.fetch(_old, tuple[int], {"before": before, "limit": 1}))


def find_past(
    snapshot: Snapshot,
    types: list[str],
    test: Callable[[Event], bool] | None,
    after: int,
    before: int,
    limit: int,
    max_bytes: int,
) -> PastEvents:
    """Implement `Reader.past_events`."""
    matches = matcher(types)
    bounds = {"after": after, "before": before, "limit": LOOK}
    rows = snapshot.fetch(_stretch, tuple[int, str, int], bounds)
    position = rows[-1][0] if len(rows) == LOOK else before - 1
    found: list[int] = []
    for seq, type_, size in rows:
        if matches(type_):
            found.append(seq)
            max_bytes -= ROW_BYTES + size
            if len(found) == limit or max_bytes <= 0:
                position = seq
                break
    if test is not None and found:
        stored = snapshot.fetch(_these, records.EventRow, {"events": found})
        found = sorted(row.seq for row in stored if test(records.event(row)))
    return PastEvents(found, position)


def find_results(
    snapshot: Snapshot, replay: int, after: int, limit: int, max_bytes: int
) -> list[ReplayResult]:
    """Implement `Reader.replay_results`."""
    rows = snapshot.fetch(_one, _Row, {"id": replay})
    if not rows:
        return []
    ended = _ended_runs(snapshot, signed(replay, shadow=bool(rows[0].shadow)), after, limit)
    recorded = _runs_on_record(snapshot, rows[0].handler, ended)
    numbers = {
        run: number
        for each in (*ended, *recorded.values())
        if (number := each.last_result) is not None
        for run in (each.id,)
    }
    sizes = dict(snapshot.fetch(_result_sizes, tuple[int, int], {"numbers": sorted(numbers.values())}))
    within: list[tuple[_Ended, _Ended | None]] = []
    for run in ended:
        before = recorded.get(run.id)
        within.append((run, before))
        for each in (run, before):
            max_bytes -= ROW_BYTES + (sizes.get(numbers.get(each.id, 0), 0) if each else 0)
        if max_bytes <= 0:
            break
    return _with_results(snapshot, within)


class _Ended(records.RunRow, array_like=True):
    """A run that has ended, and the number of its result."""

    last_result: int | None


_ended_columns = (*records.RUN_COLUMNS, runs.c.last_result)
_result_sizes = sa.select(results.c.number, sa.func.coalesce(sa.func.length(results.c.data), 0)).where(
    among(results.c.number, sa.bindparam("numbers"))
)
_results = (
    sa.select(*records.RESULT_COLUMNS)
    .join(events, events.c.seq == results.c.event)
    .join(handlers, handlers.c.id == results.c.handler)
    .where(among(results.c.number, sa.bindparam("numbers")))
)
_on_record = (
    sa.select(*_ended_columns)
    .join(handlers, handlers.c.id == runs.c.handler)
    .where(
        among(runs.c.event, sa.bindparam("events")), sa.literal_column("+runs.handler") == sa.bindparam("of")
    )
    .where(sa.func.coalesce(runs.c.replay, 0) >= 0, runs.c.state >= SUCCEEDED)
)


def ids_of(replay: int, states: Iterable[int], where: Iterable[Any], order: Any, limit: int) -> Any:
    """Return a query for the ids of a replay's runs: the first of each state, by the index of replays.

    Args:
        replay: its number, negative if it is a shadow replay.
        states: of the runs.
        where: further conditions.
        order: by the id, forward or backward.
        limit: for each state.
    """
    each = [
        sa.select(
            sa.select(runs.c.id)
            .where(runs.c.replay == replay, runs.c.state == state, *where)
            .order_by(order)
            .limit(at_most(limit))
            .subquery()
            .c.id
        )
        for state in states
    ]
    return sa.union_all(*each)


def _ended_runs(snapshot: Snapshot, replay: int, after: int, limit: int) -> list[_Ended]:
    final = [STATE_CODES[state] for state in FINAL]
    found = ids_of(replay, final, [runs.c.id > after], runs.c.id, limit)
    query = sa.select(*_ended_columns).join(handlers, handlers.c.id == runs.c.handler)
    return snapshot.fetch(query.where(runs.c.id.in_(found)).order_by(runs.c.id).limit(at_most(limit)), _Ended)


def _runs_on_record(snapshot: Snapshot, handler: int, ended: list[_Ended]) -> dict[int, _Ended]:
    """Return for each of these runs the newest one before it, of the same event, that is no shadow."""
    which = {"events": sorted({run.event for run in ended}), "of": handler}
    by_event: dict[int, list[_Ended]] = {}
    for row in snapshot.fetch(_on_record, _Ended, which):
        by_event.setdefault(row.event, []).append(row)
    found = {}
    for run in ended:
        earlier = [each for each in by_event.get(run.event, ()) if each.id < run.id]
        if earlier:
            found[run.id] = max(earlier, key=lambda each: each.id)
    return found


def _with_results(snapshot: Snapshot, found: list[tuple[_Ended, _Ended | None]]) -> list[ReplayResult]:
    numbers = {each.last_result for pair in found for each in pair if each and each.last_result is not None}
    rows = snapshot.fetch(_results, records.ResultRow, {"numbers": sorted(numbers)})
    known = {row.run: records.result(row) for row in rows}

    def result(run: _Ended) -> Result | None:
        one = known.get(run.id)
        return one if one is not None and one.number == run.last_result else None

    return [
        ReplayResult(
            records.run(run),
            result(run),
            None if before is None else records.run(before),
            None if before is None else result(before),
        )
        for run, before in found
    ]


def _counted(snapshot: Snapshot, row: _Row) -> dict[str, int]:
    which = {"replay": signed(row.id, shadow=bool(row.shadow))}
    return {STATES[state].value: n for state, n in snapshot.fetch(_counts, tuple[int, int], which)}


def _record(snapshot: Snapshot, row: _Row) -> ReplayRecord:
    counts = msgspec.json.decode(row.counts) if row.counts else _counted(snapshot, row)
    return _shown(row, counts)


def _shown(row: _Row, counts: dict[str, int]) -> ReplayRecord:
    return ReplayRecord(
        id=row.id,
        handler=row.handler,
        name=row.name,
        types=msgspec.json.decode(row.types, type=list[str]),
        after=row.after,
        before=row.before,
        shadow=bool(row.shadow),
        state=REPLAY_STATES[row.state],
        matched=row.matched,
        created=row.created,
        position=row.position,
        created_at=row.created_at,
        finished_at=row.finished_at,
        counts=counts,
    )
