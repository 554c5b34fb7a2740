"""The port for reads, and the records that they return."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from busway.domain.cursor import Position
from busway.domain.event import Event
from busway.domain.firing import Timing
from busway.domain.handler import Handler
from busway.domain.replay import ReplayState
from busway.domain.result import Result
from busway.domain.run import Error, Run, RunState
from busway.domain.schedule import Schedule
from busway.domain.source import Source
from busway.gateway.store.port.audit import AuditQuery, AuditRecord
from busway.gateway.store.port.code import CodeFile
from busway.gateway.store.port.correlated import Correlated


class RunRecord(msgspec.Struct, kw_only=True):
    """A run as the API shows it. Times are microseconds since 1970. Only attempts have tracebacks."""

    id: int
    event: int
    handler: str
    revision: int | None
    state: RunState
    attempt: int
    max_attempts: int | None
    available_at: int
    created_at: int
    finished_at: int | None
    error: Error | None
    replay: int | None = None


class AttemptRecord(msgspec.Struct, kw_only=True):
    """An attempt as the API shows it. Fields as in `operations.Report`. `outcome` is None while it runs.

    `node`: the name of its node, None if it is not known.
    """

    attempt: int
    outcome: str | None
    revision: int
    started_at: int
    finished_at: int | None
    pool: str
    worker: int | None
    node: str | None
    cpu_time: float | None
    wall_time: float | None
    peak_memory: int | None
    error: Error | None
    log: str | None
    published: str | None = None


class KeyRecord(msgspec.Struct, kw_only=True):
    """An API key without its secret. Times are microseconds since 1970.

    `source`: where it is declared, `database` or `file`.
    """

    id: int
    name: str
    digest: bytes
    scopes: list[str]
    created_at: int
    expires_at: int | None
    revoked_at: int | None
    types: list[str] | None = None
    last_used_at: int | None = None
    source: str = "database"


class DurableRecord(msgspec.Struct, kw_only=True):
    """A durable subscription, acknowledged up to `position`. Times are microseconds since 1970.

    `generation`: raised whenever a subscription takes the name. `holder`: the node that has its subscription,
    None if none has it or only one node uses the database. `types`: the patterns of the key that created it.
    """

    name: str
    position: Position
    created_at: int
    acknowledged_at: int | None
    generation: int = 1
    holder: int | None = None
    types: tuple[str, ...] = ()


class RevisionRecord(msgspec.Struct, kw_only=True):
    """A revision of a handler: its effective fields and the digest of its source file."""

    revision: int
    created_at: int
    fields: dict[str, Any]
    file_digest: str


class EventQuery(msgspec.Struct, kw_only=True):
    """Which events to list. None means any. `type` is a pattern, `before` an event number (exclusive).

    `within`: patterns, of which one must match, too. None are needed if it is empty.
    """

    type: str | None = None
    source: str | None = None
    subject: str | None = None
    id: str | None = None
    correlationid: str | None = None
    before: int | None = None
    within: tuple[str, ...] = ()


class RunQuery(msgspec.Struct, kw_only=True):
    """Which runs to list. None means any. `before` is a run id (exclusive)."""

    state: RunState | None = None
    handler: str | None = None
    event: int | None = None
    replay: int | None = None
    before: int | None = None


class ReplayRecord(msgspec.Struct, kw_only=True):
    """A replay. `handler` is the handler's number. Times are microseconds since 1970.

    `position`: events up to this number are done. `finished_at`: None while it has unfinished runs or will
    create more. `counts`: its runs by state.
    """

    id: int
    handler: int
    name: str
    types: list[str]
    after: int
    before: int
    shadow: bool
    state: ReplayState
    matched: int
    created: int
    position: int
    created_at: int
    finished_at: int | None
    counts: dict[str, int]


class ReplayResult(msgspec.Struct):
    """A run of a replay that has ended, with its result, and what was there before.

    `recorded`: the newest run of the same event and handler before it that was not of a shadow replay.
    Results are None if they were deleted.
    """

    run: RunRecord
    result: Result | None
    recorded: RunRecord | None
    recorded_result: Result | None


class PastEvents(msgspec.Struct):
    """Numbers of events that a replay runs again, and the position up to which the events were examined."""

    events: list[int]
    position: int


class KeyRuns(msgspec.Struct):
    """The first waiting runs of one partition key of a handler, in the order of an ordered handler.

    First the runs that had an attempt, due or not. Then the others that are due. Both by number.
    `more`: further runs follow.
    """

    key: str
    runs: list[Run]
    more: bool


class OldRoots(msgspec.Struct):
    """Old root events, each with its size in bytes. `next`: number to continue after, None at the end."""

    roots: list[tuple[int, int]]
    next: int | None


class Layer(msgspec.Struct):
    """What retention needs to know about some events.

    `kept`: events that must stay, because a run is unfinished, has a stored result or published an event
    that is not old. `children`: (event, event that its runs published, size of the latter in bytes).
    """

    kept: set[int]
    children: list[tuple[int, int, int]]


class ScheduleTiming(msgspec.Struct):
    """When a schedule fires. Firings up to `after`, in microseconds since 1970, are done."""

    name: str
    timing: Timing
    after: int


class Outcomes(msgspec.Struct):
    """How the runs of an event ended.

    `unfinished`: runs that have not ended; while there are some, `results` is empty. `results`: the last
    result of each run, in log order. `truncated`: there are more.
    """

    unfinished: int
    results: list[Result]
    truncated: bool


class RunningRun(msgspec.Struct):
    """A run with an attempt that a node has. `run` is as it was before this attempt."""

    run: Run
    attempt: int
    token: int
    pool: str
    node: int | None


class WaitingRuns(msgspec.Struct):
    """Those of some runs that wait. `more`: they take too many bytes, and the others are missing."""

    runs: list[Run]
    more: bool


class ProducerRecord(msgspec.Struct, array_like=True, frozen=True):
    """How far an upload has come: how many lines were taken, and what became of them.

    Times are microseconds since 1970.
    """

    id: str
    lines: int
    accepted: int
    duplicates: int
    rejected: int
    created_at: int
    updated_at: int


NO_LIMIT = 1 << 62


class Reader(Protocol):
    """Reads of committed state. Each is short and runs in a reader thread. None writes."""

    async def log_bounds(self) -> tuple[Position, Position]:
        """Return the head and the floor of the result log. The floor is just before the oldest result."""

    async def totals(self) -> tuple[int, int]:
        """Return how many events and how many results were stored in total, pruned ones included."""

    async def position(self, number: int) -> Position | None:
        """Return the position of result `number`, None if that result is not in the log."""

    async def results(self, after: int, limit: int, max_bytes: int) -> list[Result]:
        """Return results from `after + 1` on, in order. Stop at `limit` results or at `max_bytes`."""

    async def results_with_events(self, after: int, limit: int, max_bytes: int) -> list[tuple[Result, Event]]:
        """Return results as `results` does, each with its event. The size of each event counts once, too."""

    async def correlated(
        self, correlationid: str, after: int, until: int, limit: int, max_bytes: int
    ) -> Correlated | None:
        """Return the newest results of the events with a correlation id, above `after`, up to `until`.

        Stop as `results` does, or after `SCANNED` results. None: more than `MOST_EVENTS` events have the id.
        """

    async def event(self, seq: int) -> Event | None:
        """Return one event."""

    async def events(self, query: EventQuery, limit: int, max_bytes: int = NO_LIMIT) -> list[Event]:
        """Return events, newest first. Stop at `limit` events or at `max_bytes`.

        An event counts with at most the size of its JSON document.
        """

    async def chain(self, seq: int, limit: int) -> list[str]:
        """Return the types of an event and of those that it descends from, at most so many, oldest first."""

    async def children(
        self, runs: list[int], after: int = 0, limit: int = NO_LIMIT, max_bytes: int = NO_LIMIT
    ) -> list[tuple[int, Event]]:
        """Return the events that these runs published, each with the id of its run, oldest first.

        Args:
            runs: ids of runs.
            after: only events with a number above it.
            limit: maximum number of events.
            max_bytes: stop once this many bytes are reached, as in `events`.
        """

    async def runs(self, query: RunQuery, limit: int, max_bytes: int = NO_LIMIT) -> list[RunRecord]:
        """Return runs, newest first. Stop at `limit` runs or at `max_bytes`.

        A run counts with at most the size of its JSON document.
        """

    async def event_types(self, seqs: list[int]) -> dict[int, str]:
        """Return the types of these events, by number. Those that do not exist are left out."""

    async def runs_of(
        self, events: list[int], after: int = 0, limit: int = NO_LIMIT, max_bytes: int = NO_LIMIT
    ) -> list[RunRecord]:
        """Return the runs of these events with an id above `after`, oldest first. Stop as `runs` does."""

    async def run(self, id_: int) -> tuple[RunRecord, list[AttemptRecord]] | None:
        """Return one run with its attempts in order. If they take much, old ones lack log and traceback."""

    async def waiting(
        self, handler: int, limit: int, *, now: int = 0, max_bytes: int = NO_LIMIT, keyless: bool = False
    ) -> list[Run]:
        """Return waiting runs of a handler that are due, highest priority first, then oldest.

        Args:
            handler: number of the handler.
            limit: maximum number of runs. Of runs with a due time, the earliest are included.
            now: runs with a due time up to this moment are due.
            max_bytes: stop once this many bytes of event data are reached.
            keyless: return only runs without a partition key.
        """

    async def waiting_of(self, ids: list[int], max_bytes: int) -> WaitingRuns:
        """Return those of these runs that wait, due or not. Stop once `max_bytes` is reached."""

    async def running(self, ids: list[int] | None = None) -> list[RunningRun]:
        """Return those of these runs that are running, or all."""

    async def due(self, before: int, limit: int, *, after: int = 0, max_bytes: int = NO_LIMIT) -> list[Run]:
        """Return waiting runs with a due time after `after` and up to `before`, earliest first.

        At most `limit`, and none once `max_bytes` of event data is reached.
        """

    async def partition_keys(self, handler: int, after: str, limit: int) -> list[str]:
        """Return the first partition keys above `after` for which a handler has waiting runs, in order."""

    async def key_runs(
        self, handler: int, keys: list[str], now: int, per_key: int, max_bytes: int
    ) -> list[KeyRuns]:
        """Return the waiting runs of these partition keys of a handler, in the order of `keys`.

        Keys after the one that reaches `max_bytes` of event data are omitted. The first key never is.
        """

    async def replay(self, id_: int) -> ReplayRecord | None:
        """Return one replay."""

    async def replays(self, handler: str | None, before: int, limit: int) -> list[ReplayRecord]:
        """Return replays with ids below `before`, newest first. `handler` None: of all handlers."""

    async def unfinished_replays(self, most: int) -> list[tuple[ReplayRecord, int]]:
        """Return the replays that are not finished, oldest first, without their counts.

        Each with the number of its unfinished runs, `most` at most.
        """

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
        """Return stored events whose types match a pattern of `types`, and that pass `test`, in order.

        Args:
            types: patterns.
            test: is called in a reader thread.
            after: only events with a number above it.
            before: only events with a number below it.
            limit: at most so many events.
            max_bytes: stop once this many bytes are reached.
        """

    async def replay_results(self, replay: int, after: int, limit: int, max_bytes: int) -> list[ReplayResult]:
        """Return runs of a replay that have ended, with ids above `after`, oldest first.

        Stop at `limit` runs or at `max_bytes`.
        """

    async def oldest(self, now: int) -> dict[int, int]:
        """Return since when the longest waiting run of each handler could have started, by handler number.

        Runs that are due after `now`, and handlers without waiting runs, are left out.
        """

    async def next_expiry(self) -> int | None:
        """Return the earliest `expires_at` of all runs that had no attempt."""

    async def old_results(self, before: int, limit: int, max_bytes: int) -> int | None:
        """Return the highest number of the oldest results that are older than `before`, None if none is.

        Examines at most `limit` results and `max_bytes` bytes. Clocks can go back, so an old result may
        follow a younger one in the log. It counts as old, too.
        """

    async def old_roots(self, after: int, before: int, limit: int) -> OldRoots:
        """Return root events with a number above `after` that were accepted before `before`.

        Examines at most `limit` events. The search ends where none of them is old.
        """

    async def layer(self, events: list[int], before: int) -> Layer:
        """Return which of these events must be kept, and which events their runs published.

        A published event is old if it was accepted before `before`.
        """

    async def outcomes(self, event: int, limit: int, max_bytes: int) -> Outcomes:
        """Return how the runs of an event ended. Stop at `limit` results or at `max_bytes`."""

    async def old_replays(self, before: int) -> bool:
        """Return whether replays finished before `before` and have no stored runs, besides the newest one."""

    async def old_keys(self, before: int) -> bool:
        """Return whether idempotency keys were stored before `before`."""

    async def lingering(self) -> list[RunningRun]:
        """Return the runs whose attempt has ended and may still run. Their `token` is 0."""

    async def rules(self) -> int:
        """Return the version of the handlers and keys, 0 if only one node uses the database."""

    async def nodes_behind(self, rules: int) -> list[int]:
        """Return the open nodes that have an older version of the handlers and keys."""

    async def handlers(self) -> list[Handler]:
        """Return all handlers, including deleted ones."""

    async def revisions(
        self, handler: int, before: int | None = None, limit: int = NO_LIMIT, max_bytes: int = NO_LIMIT
    ) -> list[RevisionRecord]:
        """Return revisions of a handler, newest first: those below `before`. Stop as `runs` does."""

    async def code(self, digest: str) -> CodeFile | None:
        """Return the source file with this digest, None if it is not stored."""

    async def code_digests(self) -> dict[str, int]:
        """Return the digests of all stored source files, each with the time when a node last had it."""

    async def counts(self) -> dict[int, dict[str, int]]:
        """Return the number of runs in each state, by handler number."""

    async def last_errors(self) -> dict[int, Error]:
        """Return the newest error of each handler, by handler number."""

    async def keys(self) -> list[KeyRecord]:
        """Return all API keys, including revoked ones."""

    async def sources(self) -> list[Source]:
        """Return all sources of webhooks, by name."""

    async def durable(self, name: str) -> DurableRecord | None:
        """Return one durable subscription."""

    async def durables(self, after: str, limit: int) -> list[DurableRecord]:
        """Return up to `limit` durable subscriptions with a name above `after`, by name."""

    async def schedule(self, name: str) -> Schedule | None:
        """Return one schedule."""

    async def audit(self, query: AuditQuery, limit: int) -> list[AuditRecord]:
        """Return up to `limit` entries of the audit log, newest first."""

    async def old_audit(self, before: int) -> bool:
        """Return whether there is an entry of the audit log that is older than `before`."""

    async def schedules(self, after: str, limit: int) -> list[Schedule]:
        """Return up to `limit` schedules with a name above `after`, by name."""

    async def schedule_timings(self) -> list[ScheduleTiming]:
        """Return when each schedule that is not paused fires."""

    async def producer(self, id_: str) -> ProducerRecord | None:
        """Return how far the upload of a producer has come, None if nothing is known of it."""
