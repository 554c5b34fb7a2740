"""The port to the durable store. Its docstrings are the contract that every backend keeps.

There is one log of events and one of results, each numbered from 1 without holes in commit order.
A commit is complete when it is synced to disk; only then does anything here tell of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import msgspec

from app.domain.cursor import Position
from app.domain.event import Event
from app.domain.handler import Handler
from app.domain.histogram import SIZES, Histogram
from app.domain.result import Result
from app.domain.run import Error, Run, State
from app.store.operations import Append, Mark, Operation, Publish, Receipt, Settle, Settled


class Committed(msgspec.Struct, kw_only=True):
    """What one commit changed, told to every listener in commit order, within one tick of the loop.

    `ended`: runs whose attempt is over, or that were cancelled; whoever holds them lets go first.
    `runs`: those that may start, now or when due: new ones, then those that wait again.
    `results`: the results of this commit that this process knows by content, in log order. `head`
    is the number of the newest result; where the results do not reach from the last head to it,
    read the rest from the store. `floor`: where the log begins now, if results were pruned.
    `rescan`: there may be runs in the store that were told to nobody (the committer died, or another
    process wrote): look there.
    """

    runs: list[Run] = []
    ended: list[int] = []
    results: list[Result] = []
    head: int
    floor: Position | None = None
    rescan: bool = False


class CommitStats:
    """What commits came to since the gateway started: operations and seconds each, and how many failed."""

    def __init__(self) -> None:
        self.sizes = Histogram(SIZES)
        self.seconds = Histogram()
        self.failures = 0


Listener = Callable[[Committed], None]
Reply_contra = TypeVar("Reply_contra", contravariant=True)


class Waiter(Protocol[Reply_contra]):
    """Who is told once what became of an operation: a future, or what needs no turn of the loop."""

    def done(self) -> bool:
        """Tell whether it was told already, or does not want to know any more."""

    def set_result(self, result: Reply_contra, /) -> None:
        """Take the reply, after the commit was synced."""

    def set_exception(self, exception: BaseException, /) -> None:
        """Take why there is no reply."""


class Commits(Protocol):
    """The way into the store: what is asked for while a commit is under way goes in the next one.

    Futures resolve after the commit was synced and all listeners were told. A batch whose outcome
    is unknown (disk full, committer killed) fails `publish` and `change` with `Unavailable`;
    `settle`, `append` and `mark` are tried again until it is known, for ever.
    """

    epoch: str
    stats: CommitStats

    def listen(self, listener: Listener) -> None:
        """Have `listener` told of every commit; those who listen first are told first."""

    def publish(self, operation: Publish) -> asyncio.Future[list[Receipt]]:
        """Store events. The new runs come to the listeners as `runs`.

        Raises:
            Unavailable: at once, if too much is queued already, with `retry_after`.
        """

    def submit(self, operation: Publish, waiter: Waiter[list[Receipt]]) -> None:
        """Store events as `publish` does; `waiter` is told when they are synced, before the listeners."""

    def settle(
        self, operation: Settle, run: Run, handler: str, waiter: Waiter[Settled] | None = None
    ) -> None:
        """Settle an attempt of `run` by the handler of that name; never refused. `waiter` is told, if any."""

    def append(self, operation: Append, run: Run, handler: str) -> asyncio.Future[int]:
        """Append a partial result of `run`; never refused."""

    def mark(self, operation: Mark) -> None:
        """Mark a run as running; never refused."""

    def change(self, operation: Operation) -> asyncio.Future[Any]:
        """Apply any other operation; the future has its reply.

        Raises (from the future):
            Conflict: it was refused by an integrity rule.
            Unavailable: the outcome is unknown.
        """

    @property
    def pid(self) -> int | None:
        """The process id of the committer, None while there is none."""

    @property
    def backlog(self) -> int:
        """Operations that `settle`, `append` and `mark` were given and that are not committed yet."""

    @property
    def healthy(self) -> bool:
        """Whether the last commit went well and a committer is there."""


class RunRecord(msgspec.Struct, kw_only=True):
    """A run as people see it. Times in microseconds since 1970; `error` has no traceback, its attempt has."""

    id: int
    event: int
    handler: str
    revision: int | None
    state: State
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

    state: State | None = None
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

    async def results(
        self, after: int, limit: int, max_bytes: int, *, with_events: bool = False
    ) -> list[Result]:
        """Return results `after + 1`, …, in order: at most `limit`, none after `max_bytes` are reached.

        `with_events`: each has its event in `of`, and the bytes of each event count too, once.
        """

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
