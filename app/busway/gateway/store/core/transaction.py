"""The port of the database drivers: reads in one transaction, and the writes of a batch.

The core decides what is read and written. A driver knows statements, types and errors of its database.
Rows that are inserted are tuples in the order of `COLUMNS`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Protocol, TypeVar

import msgspec
import sqlalchemy as sa

from busway.gateway.store.core.schema import attempts, events, idempotency_keys, results, runs
from busway.gateway.store.port.news import Content
from busway.gateway.store.port.operations import Lead

Row = TypeVar("Row")
Values = tuple[Any, ...]


class Unusable(Exception):
    """The database cannot be used any more. The message says why."""


class Expelled(Unusable):
    """Other nodes considered this one gone. What it held in memory is out of date."""

    def __init__(self) -> None:
        super().__init__("other nodes considered this one gone, because it did not report in time")


class Replaced(Unusable):
    """Another writer took over this database."""

    def __init__(self) -> None:
        super().__init__("another committer took over the database")


class Head(msgspec.Struct):
    """The newest numbers.

    Attributes:
        rules: the version of the handlers and keys. 0: only one node uses the database; nobody asks for it.
        node: the number in `node_names` of the node that writes, None for a command.
    """

    epoch: str
    event: int
    run: int
    result: int
    digest: int
    rules: int = 0
    node: int | None = None


class Bounds(msgspec.Struct):
    """The name of the logs, the newest numbers, and the position just before the oldest result."""

    epoch: str
    event: int
    run: int
    result: int
    digest: int
    floor: int
    floor_digest: int


EVENT, PLAIN_EVENT, RUN, PLAIN_RUN, REPLAY_RUN, RESULT, PLAIN_RESULT, ATTEMPT, IDEMPOTENCY_KEY = range(9)
"""What can be inserted. In most rows half of the columns are null: these rows are plain."""


def _names(table: sa.Table) -> tuple[str, ...]:
    return tuple(column.name for column in table.columns)


COLUMNS: dict[int, tuple[sa.Table, tuple[str, ...]]] = {
    EVENT: (events, _names(events)),
    PLAIN_EVENT: (events, ("seq", "id", "source", "type", "time", "accepted_at", "binary", "data")),
    RUN: (
        runs,
        (
            "id", "event", "handler", "root", "priority", "expires_at", "created_at", "counted", "due",
            "partitionkey",
        ),
    ),
    PLAIN_RUN: (runs, ("id", "event", "handler", "root", "priority", "created_at", "counted")),
    REPLAY_RUN: (
        runs,
        ("id", "event", "handler", "root", "priority", "created_at", "counted", "replay"),
    ),
    RESULT: (results, _names(results)),
    PLAIN_RESULT: (
        results,
        (
            "number", "run", "event", "handler", "revision", "attempt", "kind", "time", "completes",
            "binary", "data",
        ),
    ),
    ATTEMPT: (attempts, _names(attempts)),
    IDEMPOTENCY_KEY: (idempotency_keys, _names(idempotency_keys)),
}  # fmt: skip

MUTABLE = tuple(column.name for column in runs.columns if column.name not in {"partitionkey", "replay"})[7:]
"""The columns of a run that can change, in the order of `Transaction.update_runs`, before its id."""

SETTLED = (
    "state", "counted", "attempt", "lost", "max_attempts", "finished_at", "token", "revision", "started_at",
    "pool", "worker", "cpu_time", "wall_time", "last_result", "node",
)  # fmt: skip
"""The columns that change when a first attempt succeeds, in the order of `Transaction.update_settled`."""


class Snapshot(Protocol):
    """Reads of one transaction. All see the same state."""

    def fetch(
        self, query: sa.Select[*tuple[Any, ...]], row: type[Row], parameters: Mapping[str, Any] | None = None
    ) -> list[Row]:
        """Run a query and return its rows as `row`, an array-like struct or a tuple type.

        A parameter that is a list belongs to an `among`. Bytes that are not UTF-8 become lone surrogates.
        """

    def stream(self, query: sa.Select[*tuple[Any, ...]]) -> Iterator[Values]:
        """Run a query and yield its rows one by one, with payloads as bytes."""

    def bounds(self) -> Bounds:
        """Return the bounds of the logs."""

    def lingering(self) -> list[tuple[int, int, str | None]]:
        """Return the runs whose attempt has ended and may still run: with its node and partition key."""

    def rules(self) -> int:
        """Return the version of the handlers and keys, 0 if only one node uses the database."""

    def nodes_behind(self, rules: int) -> list[int]:
        """Return the open nodes that have an older version of the handlers and keys."""

    def partition_keys(self, handler: int, after: str, limit: int) -> list[str]:
        """Return the first partition keys above `after` for which a handler has waiting runs, in order."""

    def first_of_keys(
        self, handler: int, keys: Sequence[str], now: int, limit: int
    ) -> list[tuple[int, int, int]]:
        """Return up to `limit` waiting runs of each key: its index, the run, the size of its event's data.

        Runs that had an attempt come first, due or not. Then those that are due. Both by number.
        """

    def counts(self) -> list[tuple[int, int, int]]:
        """Return the number of runs of each handler in each state, those that are not 0."""

    def last_errors(self) -> list[tuple[int, str]]:
        """Return the newest error of each handler."""


class Transaction(Snapshot, Protocol):
    """The only transaction that writes. Its methods raise the driver's errors.

    Attributes:
        several: whether other nodes use the database. Known after `begin`.
    """

    several: bool

    @property
    def leads(self) -> bool:
        """Whether the node that writes leads. Known after `begin`."""

    def begin(self, runs: Sequence[int] = (), pairs: Sequence[tuple[str, str]] = ()) -> Head:
        """Begin, wait until nobody else writes, and return the newest numbers.

        Args:
            runs: as in `load`. What is read first may be read here, which saves a round trip.
            pairs: as in `load`.

        Raises:
            Replaced: another writer took over. Nothing began.
            Expelled: as it says. Nothing began.
        """

    def commit(self) -> None:
        """Write everything, synced to disk. An error of an earlier call may be raised only here."""

    def rollback(self) -> None:
        """Write nothing of what was begun."""

    def mark(self) -> None:
        """Remember this place for `back`, until `forget_mark`."""

    def back(self) -> None:
        """Undo everything since `mark`, and forget it."""

    def forget_mark(self) -> None:
        """Forget the place of `mark`."""

    def is_refusal(self, problem: BaseException) -> bool:
        """Return whether an error concerns one operation. All others concern the batch: disk, connection."""

    def cause(self, problem: BaseException) -> str:
        """Return the database's error message."""

    def execute(
        self, statement: sa.Executable, parameters: dict[str, Any] | list[dict[str, Any]] | None = None
    ) -> sa.CursorResult[Any]:
        """Run a statement on the small tables."""

    def load(self, runs: Sequence[int], pairs: Sequence[tuple[str, str]]) -> tuple[list[Any], list[Any]]:
        """Read what most batches need.

        Args:
            runs: ids of runs.
            pairs: (id, source) of events.

        Returns:
            The existing runs as rows of `MUTABLE`, id, event, handler, root, replay. Of the pairs those that
            are stored, each with the event's number: (id, source, number).
        """

    def tree(self, root: int) -> Values | None:
        """Return the row of `trees` of a root event."""

    def results_after(self, number: int) -> list[Values]:
        """Return (number, run, attempt, idx, completes) of the results after one."""

    def insert(self, what: int, rows: Sequence[Values]) -> None:
        """Insert rows. `what` is a key of `COLUMNS`."""

    def insert_into(self, table: sa.Table, columns: Sequence[str], rows: Sequence[Values]) -> None:
        """Insert rows into any table of the core. Payloads are bytes."""

    def update_runs(self, rows: Sequence[Values]) -> None:
        """Update runs: `MUTABLE` and the id."""

    def update_settled(self, rows: Sequence[Values]) -> None:
        """Update runs: `SETTLED` and the id."""

    def put_trees(self, rows: Sequence[Values], gone: Sequence[int]) -> None:
        """Insert or replace rows of `trees`, and delete those of roots that are complete."""

    def add_counts(self, rows: Sequence[Values]) -> None:
        """Add (handler, state, n) to the number of runs of a handler in a state."""

    def put_errors(self, rows: Sequence[tuple[int, str]]) -> None:
        """Replace the newest error of handlers."""

    def add_news(self, content: Content | None) -> None:
        """Add what this transaction writes to its message, so that the other nodes need not read it."""

    def write_head(self, new: Head) -> None:
        """Write the newest numbers, just before `commit`."""

    def take_lead(self, operation: Lead) -> bool:
        """Close the rows of nodes that are gone, and make a node the leader if it does not lead already.

        Return False if another node leads.
        """

    def lost_runs(self) -> list[int]:
        """Return the running runs that no open node has."""

    def may_assign(self, term: int, node: int) -> bool:
        """Return whether the term is the newest one and the node is open."""

    def lingers(self, run: int, node: int | None) -> None:
        """Let the other nodes know that the attempt that ended may still run, on the node that has it."""

    def stopped(self, runs: Sequence[int]) -> None:
        """Let the other nodes know that nothing of the attempts of these runs runs any more."""

    def replays_changed(self) -> None:
        """Let the other nodes know that a replay was created or cancelled."""

    def keys_changed(self) -> None:
        """Let the other nodes know that an API key was created or revoked."""

    def durable_taken(self, name: str, generation: int) -> None:
        """Let the other nodes know that a subscription of this one took over a durable name."""

    def clear_partition_keys(self, runs: Sequence[int]) -> None:
        """Take the partition keys away from runs."""

    def prune_results(self, until: int, digest: int) -> int:
        """Delete the results up to a number and move the floor there. Return how many were deleted."""

    def restore(self, bounds: Bounds, counts: Sequence[Values], errors: Sequence[tuple[int, str]]) -> None:
        """Write everything that is not in the tables of the core, after all their rows were inserted."""

    def prune_events(self, events: Sequence[int]) -> tuple[list[tuple[int, int, int]], int]:
        """Delete events with their runs and attempts.

        Returns:
            The deleted runs: (id, handler, state). And how many events were deleted.
        """


def ids(rows: Iterable[tuple[int, ...]]) -> list[int]:
    """Return the numbers of rows of one column."""
    return [number for (number,) in rows]
