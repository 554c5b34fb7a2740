"""The port to the store's reads, and the records that they return."""

from __future__ import annotations

from typing import Any, Protocol

import msgspec

from busway.domain.cursor import Position
from busway.domain.event import Event
from busway.domain.handler import Handler
from busway.domain.result import Result
from busway.domain.run import Error, Run, RunState


class RunRecord(msgspec.Struct, kw_only=True):
    """A run as people see it. Times in microseconds since 1970; `error` has no traceback, its attempt has."""

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
    replay: bool = False


class AttemptRecord(msgspec.Struct, kw_only=True):
    """An attempt as people see it; fields as in `operations.Report`. `outcome` None: it runs."""

    attempt: int
    outcome: str | None
    revision: int
    started_at: int
    finished_at: int | None
    pool: str
    worker: int | None
    cpu_time: float | None
    wall_time: float | None
    peak_memory: int | None
    error: Error | None
    log: str | None


class KeyRecord(msgspec.Struct, kw_only=True):
    """A key without its secret. Times in microseconds since 1970."""

    id: int
    name: str
    digest: bytes
    scopes: list[str]
    created_at: int
    expires_at: int | None
    revoked_at: int | None


class DurableRecord(msgspec.Struct, kw_only=True):
    """A durable subscription, acknowledged up to `position`. Times in microseconds since 1970."""

    name: str
    position: Position
    created_at: int
    acknowledged_at: int | None


class RevisionRecord(msgspec.Struct, kw_only=True):
    """A revision of a handler: the fields in force and the digest of its source file."""

    revision: int
    created_at: int
    fields: dict[str, Any]
    file_digest: str


class EventQuery(msgspec.Struct, kw_only=True):
    """Which events to list; None is any. `type` is a pattern, `before` an event number (exclusive)."""

    type: str | None = None
    source: str | None = None
    subject: str | None = None
    id: str | None = None
    correlationid: str | None = None
    before: int | None = None


class RunQuery(msgspec.Struct, kw_only=True):
    """Which runs to list; None is any. `before` is a run id (exclusive)."""

    state: RunState | None = None
    handler: str | None = None
    event: int | None = None
    before: int | None = None


class KeyLine(msgspec.Struct):
    """The first waiting runs of one partition key of a handler, as an ordered handler lines them up.

    First the runs that an attempt has started, due or not, then the others that are due; each by
    number. `more`: there are others behind them.
    """

    key: str
    runs: list[Run]
    more: bool


class OldRoots(msgspec.Struct):
    """Root events that are old, each with its bytes; `next`: where to look on, None at the end."""

    roots: list[tuple[int, int]]
    next: int | None


class Layer(msgspec.Struct):
    """What retention must know of some events.

    `kept`: those that must stay, because a run is unfinished, a result of it is kept or an event that
    it published is young. `children`: (event, event that its runs published, bytes of that).
    """

    kept: set[int]
    children: list[tuple[int, int, int]]


NO_LIMIT = 1 << 62


class Reader(Protocol):
    """Reads of committed state, each short, in threads of its own; none of them writes."""

    async def places(self) -> tuple[Position, Position]:
        """Return the head of the result log and its floor, the place just before the oldest result kept."""

    async def totals(self) -> tuple[int, int]:
        """Return how many events and how many results were ever stored."""

    async def position(self, number: int) -> Position | None:
        """Return the place behind result `number`, None if that result is not in the log."""

    async def results(self, after: int, limit: int, max_bytes: int) -> list[Result]:
        """Return results `after + 1`, …, in order: at most `limit`, none after `max_bytes` are reached."""

    async def results_with_events(self, after: int, limit: int, max_bytes: int) -> list[tuple[Result, Event]]:
        """Return results as `results` does, each with its event; the bytes of each event count too, once."""

    async def event(self, seq: int) -> Event | None:
        """Return one event."""

    async def events(self, query: EventQuery, limit: int) -> list[Event]:
        """Return events, newest first."""

    async def children(self, runs: list[int]) -> list[tuple[int, Event]]:
        """Return the events that these runs published, each with its run, oldest first."""

    async def runs(self, query: RunQuery, limit: int) -> list[RunRecord]:
        """Return runs, newest first."""

    async def runs_of(self, events: list[int]) -> list[RunRecord]:
        """Return all runs of these events, oldest first."""

    async def run(self, id_: int) -> tuple[RunRecord, list[AttemptRecord]] | None:
        """Return one run with its attempts in order."""

    async def waiting(
        self, handler: int, limit: int, *, now: int = 0, max_bytes: int = NO_LIMIT, keyless: bool = False
    ) -> list[Run]:
        """Return waiting runs of a handler that are due, highest priority first, then oldest.

        Args:
            handler: its number.
            limit: the most runs; of those with a due time, the earliest are among them.
            now: those with a due time up to then are due.
            max_bytes: none after so many bytes of event data are reached.
            keyless: only those without a partition key.
        """

    async def due(self, before: int, limit: int, *, after: int = 0, max_bytes: int = NO_LIMIT) -> list[Run]:
        """Return waiting runs with a due time after `after` and up to `before`, earliest first.

        At most `limit`, none after `max_bytes` of event data are reached.
        """

    async def partition_keys(self, handler: int, after: str, limit: int) -> list[str]:
        """Return the first partition keys behind `after` of which a handler has waiting runs, in order."""

    async def lines(
        self, handler: int, keys: list[str], now: int, per_key: int, max_bytes: int
    ) -> list[KeyLine]:
        """Return what waits of these partition keys of a handler, in the order asked for.

        Keys are left out behind the one that reaches `max_bytes` of event data; the first never is.
        """

    async def next_due(self) -> int | None:
        """Return the earliest due time of all waiting runs."""

    async def next_expiry(self) -> int | None:
        """Return the earliest `expires_at` of all runs that no attempt started."""

    async def old_results(self, before: int, limit: int, max_bytes: int) -> int | None:
        """Return the newest number among the oldest results that are older than `before`, None if none is.

        Looks at no more than `limit` results, and at none after `max_bytes` are reached. A result
        that a younger one precedes is old too: clocks go back, the log does not.
        """

    async def old_roots(self, after: int, before: int, limit: int) -> OldRoots:
        """Return root events behind number `after` that were accepted before `before`.

        Looks at no more than `limit` events; the end is where none of them is old.
        """

    async def layer(self, events: list[int], before: int) -> Layer:
        """Return which of these events must be kept, and what their runs published.

        An event that a run published is young if it was accepted at or after `before`.
        """

    async def handlers(self) -> list[Handler]:
        """Return all handlers, deleted ones too."""

    async def revisions(self, handler: int) -> list[RevisionRecord]:
        """Return the revisions of a handler, newest first."""

    async def counts(self) -> dict[int, dict[str, int]]:
        """Return runs by state for each handler number."""

    async def last_errors(self) -> dict[int, Error]:
        """Return the newest error of each handler number that had one."""

    async def keys(self) -> list[KeyRecord]:
        """Return all keys, revoked ones too."""

    async def durable(self, name: str) -> DurableRecord | None:
        """Return one durable subscription."""

    async def durables(self, after: str, limit: int) -> list[DurableRecord]:
        """Return up to `limit` durable subscriptions behind the name `after`, by name."""
