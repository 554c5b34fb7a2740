"""Reads of committed state from SQLite: short, in reader threads, on connections that cannot write."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import sqlalchemy as sa

from busway.domain import cursor
from busway.domain.cursor import Position
from busway.domain.event import Event
from busway.domain.handler import Handler
from busway.domain.result import Result
from busway.domain.run import Error, Run
from busway.gateway.errors import Unavailable
from busway.gateway.store.port.reader import (
    NO_LIMIT,
    AttemptRecord,
    DurableRecord,
    EventQuery,
    KeyRecord,
    KeyRuns,
    Layer,
    OldRoots,
    RevisionRecord,
    RunQuery,
    RunRecord,
)
from busway.gateway.store.sqlite import database as sqlite
from busway.gateway.store.sqlite import durables, listings, pruning, records, waiting_runs
from busway.gateway.store.sqlite.handlers_keys import select_keys
from busway.gateway.store.sqlite.packed import Row, fetch, pack
from busway.gateway.store.sqlite.schema import (
    RUNNING,
    STATES,
    SUCCEEDED,
    WAITING,
    attempts,
    counts,
    events,
    handler_revisions,
    handlers,
    head,
    last_errors,
    results,
    runs,
)

Answer = TypeVar("Answer")

_waiting = sa.text(WAITING)
_ALL = 1 << 40  # no limit: a packed query keeps its order only if it has one
_next = results.c.number > sa.bindparam("after")
_size = sa.func.coalesce(sa.func.length(results.c.data), 0)
_sizes = pack(sa.select(_size).where(_next).order_by(results.c.number).limit(sa.bindparam("limit")))
_sizes_with_events = pack(
    sa.select(_size, events.c.seq, listings.EVENT_BYTES)
    .join(events, events.c.seq == results.c.event)
    .where(_next)
    .order_by(results.c.number)
    .limit(sa.bindparam("limit"))
)
_results = pack(
    sa.select(*records.RESULT_COLUMNS)
    .join(events, events.c.seq == results.c.event)
    .join(handlers, handlers.c.id == results.c.handler)
    .where(_next)
    .order_by(results.c.number)
    .limit(sa.bindparam("limit"))
)
_event = pack(sa.select(*records.EVENT_COLUMNS).where(events.c.seq == sa.bindparam("seq")))
_run = pack(listings.select_runs().where(runs.c.id == sa.bindparam("id")))
_whole = attempts.c.attempt >= sa.bindparam("whole")  # others come without log and traceback
_attempts = pack(
    sa.select(
        *records.ATTEMPT_COLUMNS[:-2],
        sa.case(
            (_whole, attempts.c.error),
            (sa.func.json_valid(attempts.c.error) == 1, sa.func.json_remove(attempts.c.error, "$[2]")),
        ),
        sa.case((_whole, attempts.c.log)),
    )
    .where(attempts.c.run == sa.bindparam("id"))
    .order_by(attempts.c.attempt)
    .limit(_ALL)
)
_attempt_sizes = pack(
    sa.select(
        attempts.c.attempt,
        sa.func.coalesce(sa.func.length(attempts.c.error), 0)
        + sa.func.coalesce(sa.func.length(attempts.c.log), 0),
    )
    .where(attempts.c.run == sa.bindparam("id"))
    .order_by(attempts.c.attempt.desc())
    .limit(_ALL)
)
_own_attempt = pack(
    sa.select(*records.OWN_ATTEMPT_COLUMNS).where(
        runs.c.id == sa.bindparam("id"),
        runs.c.started_at.is_not(None),
        runs.c.state.in_((RUNNING, SUCCEEDED)),
    )
)
_handlers = pack(sa.select(*records.HANDLER_COLUMNS).order_by(handlers.c.id).limit(_ALL))
_revisions = pack(
    sa.select(*records.REVISION_COLUMNS)
    .where(handler_revisions.c.handler == sa.bindparam("handler"))
    .order_by(handler_revisions.c.revision.desc())
    .limit(_ALL)
)
_counts = pack(sa.select(counts.c.handler, counts.c.state, counts.c.n).where(counts.c.n != 0))
_last_errors = pack(sa.select(last_errors.c.handler, last_errors.c.error))
ATTEMPTS_BYTES = 4 * 1024 * 1024  # of the logs and errors of one run's attempts
_ROW_BYTES = 200  # size of a result without its data, in bytes


class SQLiteReader:
    """Implements `Reader`.

    Args:
        path: the database, migrated.
        threads: how many reads run at the same time.
    """

    def __init__(self, path: Path, threads: int = 4) -> None:
        self._engine = sqlite.engine(
            path.resolve(), "query_only=ON", pool_size=threads, max_overflow=0, pool_reset_on_return=None
        )
        self._count = threads
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="busway-reader")

    async def open(self) -> None:
        """Open all connections and start all threads now. Later there may be no descriptors for them.

        Raises:
            Unavailable: the database cannot be read.
        """
        together = threading.Barrier(self._count)

        def begin(connection: sa.Connection) -> None:
            connection.execute(sa.select(head.c.epoch)).one()
            together.wait()

        try:
            await asyncio.gather(*(self._read(begin) for _ in range(self._count)))
        except BaseException:
            together.abort()
            raise

    def close(self) -> None:
        """Wait for running reads to end, then close the database."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._engine.dispose()

    async def log_bounds(self) -> tuple[Position, Position]:
        """Return the head and the floor of the result log."""
        return await self._read(_log_bounds)

    async def totals(self) -> tuple[int, int]:
        """Return how many events and how many results were stored in total, pruned ones included."""
        return await self._read(_totals)

    async def position(self, number: int) -> Position | None:
        """Return the position of result `number`, None if that result is not in the log."""
        return await self._read(lambda connection: _position(connection, number))

    async def results(self, after: int, limit: int, max_bytes: int) -> list[Result]:
        """Return results from `after + 1` on, in order. Stop at `limit` results or at `max_bytes`."""
        return await self._read(lambda connection: _read_results(connection, after, limit, max_bytes))

    async def results_with_events(self, after: int, limit: int, max_bytes: int) -> list[tuple[Result, Event]]:
        """Return results as `results` does, each with its event. The size of each event counts once, too."""
        return await self._read(lambda connection: _read_with_events(connection, after, limit, max_bytes))

    async def event(self, seq: int) -> Event | None:
        """Return one event."""
        rows = await self._fetch(_event, records.EventRow, {"seq": seq})
        return records.event(rows[0]) if rows else None

    async def events(self, query: EventQuery, limit: int, max_bytes: int = NO_LIMIT) -> list[Event]:
        """Return events, newest first. Stop at `limit` events or at `max_bytes`."""
        rows = await self._read(lambda connection: listings.find_events(connection, query, limit, max_bytes))
        return [records.event(row) for row in rows]

    async def children(
        self, runs: list[int], after: int = 0, limit: int = NO_LIMIT, max_bytes: int = NO_LIMIT
    ) -> list[tuple[int, Event]]:
        """Return the events that these runs published, each with the id of its run, oldest first."""
        rows = await self._read(
            lambda connection: listings.find_children(connection, runs, after, limit, max_bytes)
        )
        return [(row.parent, records.event(row)) for row in rows]

    async def runs(self, query: RunQuery, limit: int, max_bytes: int = NO_LIMIT) -> list[RunRecord]:
        """Return runs, newest first. Stop at `limit` runs or at `max_bytes`."""
        rows = await self._read(lambda connection: listings.find_runs(connection, query, limit, max_bytes))
        return [records.run(row) for row in rows]

    async def runs_of(
        self, events: list[int], after: int = 0, limit: int = NO_LIMIT, max_bytes: int = NO_LIMIT
    ) -> list[RunRecord]:
        """Return the runs of these events, oldest first."""
        rows = await self._read(
            lambda connection: listings.find_runs_of(connection, events, after, limit, max_bytes)
        )
        return [records.run(row) for row in rows]

    async def run(self, id_: int) -> tuple[RunRecord, list[AttemptRecord]] | None:
        """Return one run with its attempts in order."""
        return await self._read(lambda connection: _read_run(connection, id_))

    async def waiting(
        self, handler: int, limit: int, *, now: int = 0, max_bytes: int = NO_LIMIT, keyless: bool = False
    ) -> list[Run]:
        """Return waiting runs of a handler that are due, highest priority first, then oldest."""
        return await self._read(
            lambda connection: waiting_runs.find_due(
                connection, handler, limit, now=now, max_bytes=max_bytes, keyless=keyless
            )
        )

    async def due(self, before: int, limit: int, *, after: int = 0, max_bytes: int = NO_LIMIT) -> list[Run]:
        """Return waiting runs with a due time after `after` and up to `before`, earliest first."""
        return await self._read(
            lambda connection: waiting_runs.find_later(connection, after, before, limit, max_bytes)
        )

    async def partition_keys(self, handler: int, after: str, limit: int) -> list[str]:
        """Return the first partition keys above `after` for which a handler has waiting runs, in order."""
        return await self._read(lambda connection: waiting_runs.find_keys(connection, handler, after, limit))

    async def key_runs(
        self, handler: int, keys: list[str], now: int, per_key: int, max_bytes: int
    ) -> list[KeyRuns]:
        """Return the waiting runs of these partition keys of a handler, in the order of `keys`."""
        return await self._read(
            lambda connection: waiting_runs.find_key_runs(connection, handler, keys, now, per_key, max_bytes)
        )

    async def next_due(self) -> int | None:
        """Return the earliest due time of all waiting runs."""
        query = sa.select(sa.func.min(runs.c.due)).where(_waiting, runs.c.due.is_not(None))
        return await self._read(lambda connection: connection.execute(query).scalar())

    async def next_expiry(self) -> int | None:
        """Return the earliest `expires_at` of all runs that had no attempt."""
        query = sa.select(sa.func.min(runs.c.expires_at)).where(
            _waiting, sa.text("attempt = 0"), runs.c.expires_at.is_not(None)
        )
        return await self._read(lambda connection: connection.execute(query).scalar())

    async def old_results(self, before: int, limit: int, max_bytes: int) -> int | None:
        """Return the highest number of the oldest results that are older than `before`, None if none is."""
        return await self._read(
            lambda connection: pruning.find_old_results(connection, before, limit, max_bytes)
        )

    async def old_roots(self, after: int, before: int, limit: int) -> OldRoots:
        """Return root events with a number above `after` that were accepted before `before`."""
        return await self._read(lambda connection: pruning.find_old_roots(connection, after, before, limit))

    async def layer(self, events: list[int], before: int) -> Layer:
        """Return which of these events must be kept, and which events their runs published."""
        return await self._read(lambda connection: pruning.find_layer(connection, events, before))

    async def handlers(self) -> list[Handler]:
        """Return all handlers, including deleted ones."""
        return [records.handler(row) for row in await self._fetch(_handlers, records.HandlerRow)]

    async def revisions(self, handler: int) -> list[RevisionRecord]:
        """Return the revisions of a handler, newest first."""
        rows = await self._fetch(_revisions, records.RevisionRow, {"handler": handler})
        return [records.revision(row) for row in rows]

    async def counts(self) -> dict[int, dict[str, int]]:
        """Return the number of runs in each state, by handler number."""
        found: dict[int, dict[str, int]] = {}
        for handler, state, n in await self._fetch(_counts, tuple[int, int, int]):
            found.setdefault(handler, {})[STATES[state].value] = n
        return found

    async def last_errors(self) -> dict[int, Error]:
        """Return the newest error of each handler, by handler number."""
        rows = await self._fetch(_last_errors, tuple[int, str])
        return {handler: problem for handler, text in rows if (problem := records.error(text))}

    async def keys(self) -> list[KeyRecord]:
        """Return all API keys, including revoked ones."""
        return await self._read(select_keys)

    async def durable(self, name: str) -> DurableRecord | None:
        """Return one durable subscription."""
        return await self._read(lambda connection: durables.find_durable(connection, name))

    async def durables(self, after: str, limit: int) -> list[DurableRecord]:
        """Return up to `limit` durable subscriptions with a name above `after`, by name."""
        return await self._read(lambda connection: durables.find_durables(connection, after, limit))

    async def _fetch(
        self, packed: sa.Select[tuple[str]], row: type[Row], parameters: dict[str, Any] | None = None
    ) -> list[Row]:
        return await self._read(lambda connection: fetch(connection, packed, row, parameters))

    async def _read(self, read: Callable[[sa.Connection], Answer]) -> Answer:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self._read_now, read)

    def _read_now(self, read: Callable[[sa.Connection], Answer]) -> Answer:
        """Read in one transaction, so that all statements see the same snapshot."""
        try:
            with self._engine.connect() as connection:
                connection.exec_driver_sql("BEGIN")
                try:
                    return read(connection)
                finally:
                    connection.exec_driver_sql("COMMIT")
        except (sa.exc.DBAPIError, sqlite3.Error) as problem:
            raise Unavailable(
                f"cannot read the database, try again later: {sqlite.cause(problem)}"
            ) from problem


def _log_bounds(connection: sa.Connection) -> tuple[Position, Position]:
    row = connection.execute(sa.select(head)).one()
    return Position(row.result, row.digest), Position(row.floor, row.floor_digest)


def _totals(connection: sa.Connection) -> tuple[int, int]:
    row = connection.execute(sa.select(head.c.event, head.c.result)).one()
    return row.event, row.result


def _position(connection: sa.Connection, number: int) -> Position | None:
    floor = _log_bounds(connection)[1]
    if number == floor.number:
        return floor
    query = sa.select(results.c.run, results.c.attempt, results.c.time).where(results.c.number == number)
    row = connection.execute(query).first()
    return Position(number, cursor.digest(number, row.run, row.attempt, row.time)) if row else None


def _read_results(connection: sa.Connection, after: int, limit: int, max_bytes: int) -> list[Result]:
    within = 0
    for (size,) in fetch(connection, _sizes, tuple[int], {"after": after, "limit": limit}):
        within += 1
        max_bytes -= _ROW_BYTES + size
        if max_bytes <= 0:
            break
    return _results_within(connection, after, within)


def _read_with_events(
    connection: sa.Connection, after: int, limit: int, max_bytes: int
) -> list[tuple[Result, Event]]:
    """Read each event once, even if several results belong to it."""
    within, seqs = 0, set[int]()
    bounds = {"after": after, "limit": limit}
    for size, seq, event_size in fetch(connection, _sizes_with_events, tuple[int, int, int], bounds):
        within += 1
        max_bytes -= _ROW_BYTES + size + (event_size if seq not in seqs else 0)
        seqs.add(seq)
        if max_bytes <= 0:
            break
    found = _results_within(connection, after, within)
    query = pack(sa.select(*records.EVENT_COLUMNS).where(listings.among(events.c.seq, sorted(seqs))))
    known = {row.seq: records.event(row) for row in fetch(connection, query, records.EventRow)}
    return [(result, known[result.event.seq]) for result in found]


def _results_within(connection: sa.Connection, after: int, within: int) -> list[Result]:
    if not within:
        return []
    rows = fetch(connection, _results, records.ResultRow, {"after": after, "limit": within})
    return [records.result(row) for row in rows]


def _read_run(connection: sa.Connection, id_: int) -> tuple[RunRecord, list[AttemptRecord]] | None:
    which = {"id": id_}
    found = fetch(connection, _run, records.RunRow, which)
    if not found:
        return None
    whole, left = 0, ATTEMPTS_BYTES
    for number, size in fetch(connection, _attempt_sizes, tuple[int, int], which):
        left -= size
        if left < 0:
            break
        whole = number
    found_attempts = fetch(connection, _attempts, records.AttemptRow, {**which, "whole": whole})
    tried = [records.attempt(row) for row in found_attempts]
    tried += [records.own_attempt(row) for row in fetch(connection, _own_attempt, records.AttemptRow, which)]
    return records.run(found[0]), tried
