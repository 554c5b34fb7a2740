"""Reads of committed state: short, in reader threads, on connections that cannot write."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa

from busway.domain import cursor
from busway.domain.cursor import Position
from busway.domain.event import Event
from busway.domain.handler import Handler
from busway.domain.result import Result
from busway.domain.run import Error, Run
from busway.domain.schedule import Schedule
from busway.domain.source import Source
from busway.gateway.store.core import (
    audit,
    code,
    durables,
    idempotency,
    listings,
    pruning,
    records,
    replays,
    result_log,
    schedules,
    waiting_runs,
)
from busway.gateway.store.core.constructs import text_bytes, without_traceback
from busway.gateway.store.core.handlers_keys import find_keys
from busway.gateway.store.core.producers import find_producer
from busway.gateway.store.core.schema import (
    RUNNING,
    STATES,
    SUCCEEDED,
    WAITING,
    attempts,
    events,
    handlers,
    results,
    runs,
)
from busway.gateway.store.core.sources import find_sources
from busway.gateway.store.core.transaction import Row, Snapshot
from busway.gateway.store.port.audit import AuditQuery, AuditRecord
from busway.gateway.store.port.code import CodeFile
from busway.gateway.store.port.correlated import Correlated
from busway.gateway.store.port.reader import (
    NO_LIMIT,
    AttemptRecord,
    DurableRecord,
    EventQuery,
    KeyRecord,
    KeyRuns,
    Layer,
    OldRoots,
    Outcomes,
    PastEvents,
    ProducerRecord,
    ReplayRecord,
    ReplayResult,
    RevisionRecord,
    RunningRun,
    RunQuery,
    RunRecord,
    ScheduleTiming,
    WaitingRuns,
)

Answer = TypeVar("Answer")

_waiting = sa.text(WAITING)
_identity = sa.select(results.c.run, results.c.attempt, results.c.time).where(
    results.c.number == sa.bindparam("number")
)
_event = sa.select(*records.EVENT_COLUMNS).where(events.c.seq == sa.bindparam("seq"))
_run = listings.select_runs().where(runs.c.id == sa.bindparam("id"))
_whole = attempts.c.attempt >= sa.bindparam("whole")  # others come without log and traceback
_attempts = (
    sa.select(
        *records.ATTEMPT_COLUMNS[:-3],
        sa.case((_whole, attempts.c.error), else_=without_traceback(attempts.c.error)),
        sa.case((_whole, attempts.c.log)),
        sa.case((_whole, attempts.c.published)),
    )
    .where(attempts.c.run == sa.bindparam("id"))
    .order_by(attempts.c.attempt)
)
_attempt_sizes = (
    sa.select(
        attempts.c.attempt,
        text_bytes(attempts.c.error) + text_bytes(attempts.c.log) + text_bytes(attempts.c.published),
    )
    .where(attempts.c.run == sa.bindparam("id"))
    .order_by(attempts.c.attempt.desc())
)
_own_attempt = sa.select(*records.OWN_ATTEMPT_COLUMNS).where(
    runs.c.id == sa.bindparam("id"),
    runs.c.started_at.is_not(None),
    runs.c.state.in_((RUNNING, SUCCEEDED)),
)
_handlers = sa.select(*records.HANDLER_COLUMNS).order_by(handlers.c.id)
ATTEMPTS_BYTES = 4 * 1024 * 1024  # of the logs and errors of one run's attempts


class Snapshots(Protocol):
    """Opens snapshots: a driver's connections for reads."""

    def open(self, *, steady: bool = True) -> AbstractContextManager[Snapshot]:
        """Begin a transaction that reads. All statements see the same state; if not `steady`, they may not.

        Raises:
            Unavailable: the database cannot be read, from this or from a read.
        """

    def close(self) -> None:
        """Close all connections. None is in use."""


class CoreReader:
    """Implements `Reader`.

    Args:
        snapshots: opens snapshots of the database.
        threads: how many reads run at the same time.
    """

    def __init__(self, snapshots: Snapshots, threads: int = 4) -> None:
        self._snapshots = snapshots
        self._count = threads
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="busway-reader")

    async def open(self) -> None:
        """Open all connections and start all threads now. Later there may be no descriptors for them.

        Raises:
            Unavailable: the database cannot be read.
        """
        together = threading.Barrier(self._count)

        def begin(snapshot: Snapshot) -> None:
            snapshot.bounds()
            together.wait()

        try:
            await asyncio.gather(*(self._read(begin) for _ in range(self._count)))
        except BaseException:
            together.abort()
            raise

    def close(self) -> None:
        """Wait for running reads to end, then close the database."""
        self._threads.shutdown(wait=True, cancel_futures=True)
        self._snapshots.close()

    async def log_bounds(self) -> tuple[Position, Position]:
        """Return the head and the floor of the result log."""
        return await self._read(_log_bounds)

    async def totals(self) -> tuple[int, int]:
        """Return how many events and how many results were stored in total, pruned ones included."""
        return await self._read(_totals)

    async def position(self, number: int) -> Position | None:
        """Return the position of result `number`, None if that result is not in the log."""
        return await self._read(lambda snapshot: _position(snapshot, number))

    async def results(self, after: int, limit: int, max_bytes: int) -> list[Result]:
        """Return results from `after + 1` on, in order. Stop at `limit` results or at `max_bytes`."""
        return await self._read(
            lambda snapshot: result_log.find(snapshot, after, limit, max_bytes), steady=False
        )

    async def results_with_events(self, after: int, limit: int, max_bytes: int) -> list[tuple[Result, Event]]:
        """Return results as `results` does, each with its event. The size of each event counts once, too."""
        return await self._read(
            lambda snapshot: result_log.find_with_events(snapshot, after, limit, max_bytes)
        )

    async def correlated(
        self, correlationid: str, after: int, until: int, limit: int, max_bytes: int
    ) -> Correlated | None:
        """Return the newest results of the events with a correlation id."""
        find, which = result_log.find_correlated, (correlationid, after, until, limit, max_bytes)
        return await self._read(lambda snapshot: find(snapshot, *which))

    async def event(self, seq: int) -> Event | None:
        """Return one event."""
        rows = await self._fetch(_event, records.EventRow, {"seq": seq})
        return records.event(rows[0]) if rows else None

    async def events(self, query: EventQuery, limit: int, max_bytes: int = NO_LIMIT) -> list[Event]:
        """Return events, newest first. Stop at `limit` events or at `max_bytes`."""
        rows = await self._read(lambda snapshot: listings.find_events(snapshot, query, limit, max_bytes))
        return [records.event(row) for row in rows]

    async def chain(self, seq: int, limit: int) -> list[str]:
        """Return the types of an event and of those that it descends from, at most so many, oldest first."""
        return await self._read(lambda snapshot: listings.find_chain(snapshot, seq, limit))

    async def children(
        self, runs: list[int], after: int = 0, limit: int = NO_LIMIT, max_bytes: int = NO_LIMIT
    ) -> list[tuple[int, Event]]:
        """Return the events that these runs published, each with the id of its run, oldest first."""
        rows = await self._read(
            lambda snapshot: listings.find_children(snapshot, runs, after, limit, max_bytes)
        )
        return [(row.parent, records.event(row)) for row in rows]

    async def runs(self, query: RunQuery, limit: int, max_bytes: int = NO_LIMIT) -> list[RunRecord]:
        """Return runs, newest first. Stop at `limit` runs or at `max_bytes`."""
        rows = await self._read(lambda snapshot: listings.find_runs(snapshot, query, limit, max_bytes))
        return [records.run(row) for row in rows]

    async def runs_of(
        self, events: list[int], after: int = 0, limit: int = NO_LIMIT, max_bytes: int = NO_LIMIT
    ) -> list[RunRecord]:
        """Return the runs of these events, oldest first."""
        rows = await self._read(
            lambda snapshot: listings.find_runs_of(snapshot, events, after, limit, max_bytes)
        )
        return [records.run(row) for row in rows]

    async def run(self, id_: int) -> tuple[RunRecord, list[AttemptRecord]] | None:
        """Return one run with its attempts in order."""
        return await self._read(lambda snapshot: _read_run(snapshot, id_))

    async def waiting(
        self, handler: int, limit: int, *, now: int = 0, max_bytes: int = NO_LIMIT, keyless: bool = False
    ) -> list[Run]:
        """Return waiting runs of a handler that are due, highest priority first, then oldest."""
        return await self._read(
            lambda snapshot: waiting_runs.find_due(
                snapshot, handler, limit, now=now, max_bytes=max_bytes, keyless=keyless
            )
        )

    async def waiting_of(self, ids: list[int], max_bytes: int) -> WaitingRuns:
        """Return those of these runs that wait, due or not. Stop once `max_bytes` is reached."""
        steady = len(ids) > 1
        return await self._read(
            lambda snapshot: waiting_runs.find_of(snapshot, ids, max_bytes), steady=steady
        )

    async def running(self, ids: list[int] | None = None) -> list[RunningRun]:
        """Return those of these runs that are running, or all."""
        return await self._read(lambda snapshot: waiting_runs.find_running(snapshot, ids), steady=False)

    async def due(self, before: int, limit: int, *, after: int = 0, max_bytes: int = NO_LIMIT) -> list[Run]:
        """Return waiting runs with a due time after `after` and up to `before`, earliest first."""
        return await self._read(
            lambda snapshot: waiting_runs.find_later(snapshot, after, before, limit, max_bytes)
        )

    async def partition_keys(self, handler: int, after: str, limit: int) -> list[str]:
        """Return the first partition keys above `after` for which a handler has waiting runs, in order."""
        return await self._read(lambda snapshot: snapshot.partition_keys(handler, after, limit))

    async def key_runs(
        self, handler: int, keys: list[str], now: int, per_key: int, max_bytes: int
    ) -> list[KeyRuns]:
        """Return the waiting runs of these partition keys of a handler, in the order of `keys`."""
        return await self._read(
            lambda snapshot: waiting_runs.find_key_runs(snapshot, handler, keys, now, per_key, max_bytes)
        )

    async def replay(self, id_: int) -> ReplayRecord | None:
        """Return one replay."""
        return await self._read(lambda snapshot: replays.find(snapshot, id_))

    async def replays(self, handler: str | None, before: int, limit: int) -> list[ReplayRecord]:
        """Return replays with ids below `before`, newest first."""
        return await self._read(lambda snapshot: replays.find_page(snapshot, handler, before, limit))

    async def unfinished_replays(self, most: int) -> list[tuple[ReplayRecord, int]]:
        """Return the replays that are not finished, each with the number of its unfinished runs."""
        return await self._read(lambda snapshot: replays.find_unfinished(snapshot, most))

    async def past_events(
        self,
        types: list[str],
        test: Callable[[Event], bool] | None,
        *,
        after: int,
        before: int,
        limit: int,
        max_bytes: int,
    ) -> PastEvents:
        """Return stored events whose types match a pattern of `types`, and that pass `test`, in order."""
        return await self._read(
            lambda snapshot: replays.find_past(snapshot, types, test, after, before, limit, max_bytes)
        )

    async def replay_results(self, replay: int, after: int, limit: int, max_bytes: int) -> list[ReplayResult]:
        """Return runs of a replay that have ended, with ids above `after`, oldest first."""
        return await self._read(
            lambda snapshot: replays.find_results(snapshot, replay, after, limit, max_bytes)
        )

    async def oldest(self, now: int) -> dict[int, int]:
        """Return since when the longest waiting run of each handler could have started."""
        return await self._read(lambda snapshot: waiting_runs.find_oldest(snapshot, now))

    async def next_expiry(self) -> int | None:
        """Return the earliest `expires_at` of all runs that had no attempt."""
        query = sa.select(sa.func.min(runs.c.expires_at)).where(
            _waiting, sa.text("attempt = 0"), runs.c.expires_at.is_not(None)
        )
        return await self._read(lambda snapshot: snapshot.fetch(query, tuple[int | None])[0][0])

    async def old_results(self, before: int, limit: int, max_bytes: int) -> int | None:
        """Return the highest number of the oldest results that are older than `before`, None if none is."""
        return await self._read(lambda snapshot: pruning.find_old_results(snapshot, before, limit, max_bytes))

    async def old_roots(self, after: int, before: int, limit: int) -> OldRoots:
        """Return root events with a number above `after` that were accepted before `before`."""
        return await self._read(lambda snapshot: pruning.find_old_roots(snapshot, after, before, limit))

    async def layer(self, events: list[int], before: int) -> Layer:
        """Return which of these events must be kept, and which events their runs published."""
        return await self._read(lambda snapshot: pruning.find_layer(snapshot, events, before))

    async def outcomes(self, event: int, limit: int, max_bytes: int) -> Outcomes:
        """Return how the runs of an event ended. Stop at `limit` results or at `max_bytes`."""
        return await self._read(lambda snapshot: result_log.find_outcomes(snapshot, event, limit, max_bytes))

    async def old_replays(self, before: int) -> bool:
        """Return whether replays finished before `before` and have no stored runs."""
        return await self._read(lambda snapshot: replays.find_old(snapshot, before), steady=False)

    async def old_keys(self, before: int) -> bool:
        """Return whether idempotency keys were stored before `before`."""
        return await self._read(lambda snapshot: idempotency.find_old_keys(snapshot, before), steady=False)

    async def lingering(self) -> list[RunningRun]:
        """Return the runs whose attempt has ended and may still run. Their `token` is 0."""
        return await self._read(waiting_runs.find_lingering)

    async def rules(self) -> int:
        """Return the version of the handlers and keys, 0 if only one node uses the database."""
        return await self._read(lambda snapshot: snapshot.rules(), steady=False)

    async def nodes_behind(self, rules: int) -> list[int]:
        """Return the open nodes that have an older version of the handlers and keys."""
        return await self._read(lambda snapshot: snapshot.nodes_behind(rules), steady=False)

    async def handlers(self) -> list[Handler]:
        """Return all handlers, including deleted ones."""
        return [records.handler(row) for row in await self._fetch(_handlers, records.HandlerRow)]

    async def revisions(
        self, handler: int, before: int | None = None, limit: int = NO_LIMIT, max_bytes: int = NO_LIMIT
    ) -> list[RevisionRecord]:
        """Return revisions of a handler, newest first: those below `before`."""
        find, most = listings.find_revisions, before or NO_LIMIT
        rows = await self._read(lambda snapshot: find(snapshot, handler, most, limit, max_bytes))
        return [records.revision(row) for row in rows]

    async def code(self, digest: str) -> CodeFile | None:
        """Return a source file by its digest."""
        return await self._read(lambda snapshot: code.find(snapshot, digest))

    async def code_digests(self) -> dict[str, int]:
        """Return the digests of all source files, each with the time when a node last had it."""
        return await self._read(code.find_digests)

    async def event_types(self, seqs: list[int]) -> dict[int, str]:
        """Return the types of events, by number."""
        return await self._read(lambda snapshot: listings.find_event_types(snapshot, seqs))

    async def counts(self) -> dict[int, dict[str, int]]:
        """Return the number of runs in each state, by handler number."""
        found: dict[int, dict[str, int]] = {}
        for handler, state, n in await self._read(lambda snapshot: snapshot.counts()):
            found.setdefault(handler, {})[STATES[state].value] = n
        return found

    async def last_errors(self) -> dict[int, Error]:
        """Return the newest error of each handler, by handler number."""
        rows = await self._read(lambda snapshot: snapshot.last_errors())
        return {handler: problem for handler, text in rows if (problem := records.error(text))}

    async def keys(self) -> list[KeyRecord]:
        """Return all API keys, including revoked ones."""
        return await self._read(find_keys)

    async def sources(self) -> list[Source]:
        """Return all sources of webhooks, by name."""
        return await self._read(find_sources)

    async def durable(self, name: str) -> DurableRecord | None:
        """Return one durable subscription."""
        return await self._read(lambda snapshot: durables.find_durable(snapshot, name))

    async def durables(self, after: str, limit: int) -> list[DurableRecord]:
        """Return up to `limit` durable subscriptions with a name above `after`, by name."""
        return await self._read(lambda snapshot: durables.find_durables(snapshot, after, limit))

    async def schedule(self, name: str) -> Schedule | None:
        """Return one schedule."""
        return await self._read(lambda snapshot: schedules.find_schedule(snapshot, name), steady=False)

    async def audit(self, query: AuditQuery, limit: int) -> list[AuditRecord]:
        """Return up to `limit` entries of the audit log, newest first."""
        return await self._read(lambda snapshot: audit.find(snapshot, query, limit))

    async def old_audit(self, before: int) -> bool:
        """Return whether there is an entry of the audit log that is older than `before`."""
        return await self._read(lambda snapshot: audit.is_old(snapshot, before), steady=False)

    async def schedules(self, after: str, limit: int) -> list[Schedule]:
        """Return up to `limit` schedules with a name above `after`, by name."""
        return await self._read(lambda snapshot: schedules.find_schedules(snapshot, after, limit))

    async def schedule_timings(self) -> list[ScheduleTiming]:
        """Return when each schedule that is not paused fires."""
        return await self._read(schedules.find_timings, steady=False)

    async def producer(self, id_: str) -> ProducerRecord | None:
        """Return how far the upload of a producer has come."""
        return await self._read(lambda snapshot: find_producer(snapshot, id_))

    async def _fetch(
        self, query: sa.Select[Any], row: type[Row], parameters: dict[str, Any] | None = None
    ) -> list[Row]:
        return await self._read(lambda snapshot: snapshot.fetch(query, row, parameters), steady=False)

    async def _read(self, read: Callable[[Snapshot], Answer], *, steady: bool = True) -> Answer:
        """Read in one transaction. `steady`: all statements see the same state. One statement does anyway."""
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Answer] = loop.create_future()

        def work() -> None:
            try:
                with self._snapshots.open(steady=steady) as snapshot:
                    # Whoever waits goes on while the transaction ends.
                    loop.call_soon_threadsafe(_resolve, answer, read(snapshot))
            except BaseException as problem:  # it is raised where the answer is awaited
                with contextlib.suppress(RuntimeError):  # the loop is closed
                    loop.call_soon_threadsafe(_fail, answer, problem)

        self._threads.submit(work)
        return await answer


def _resolve(future: asyncio.Future[Answer], answer: Answer) -> None:
    if not future.done():
        future.set_result(answer)


def _fail(future: asyncio.Future[Any], problem: BaseException) -> None:
    if not future.done():
        future.set_exception(problem)


def _log_bounds(snapshot: Snapshot) -> tuple[Position, Position]:
    bounds = snapshot.bounds()
    return Position(bounds.result, bounds.digest), Position(bounds.floor, bounds.floor_digest)


def _totals(snapshot: Snapshot) -> tuple[int, int]:
    bounds = snapshot.bounds()
    return bounds.event, bounds.result


def _position(snapshot: Snapshot, number: int) -> Position | None:
    floor = _log_bounds(snapshot)[1]
    if number == floor.number:
        return floor
    rows = snapshot.fetch(_identity, tuple[int, int, int], {"number": number})
    return Position(number, cursor.digest(number, *rows[0])) if rows else None


def _read_run(snapshot: Snapshot, id_: int) -> tuple[RunRecord, list[AttemptRecord]] | None:
    which = {"id": id_}
    found = snapshot.fetch(_run, records.RunRow, which)
    if not found:
        return None
    whole, left = 0, ATTEMPTS_BYTES
    for number, size in snapshot.fetch(_attempt_sizes, tuple[int, int], which):
        left -= size
        if left < 0:
            break
        whole = number
    found_attempts = snapshot.fetch(_attempts, records.AttemptRow, {**which, "whole": whole})
    tried = [records.attempt(row) for row in found_attempts]
    tried += [records.own_attempt(row) for row in snapshot.fetch(_own_attempt, records.AttemptRow, which)]
    return records.run(found[0]), tried
