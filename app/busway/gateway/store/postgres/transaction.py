"""The writing transaction of PostgreSQL.

An advisory lock admits one writer. Statements are collected and sent together in a pipeline: a batch takes
three round trips. Statements of every batch bypass SQLAlchemy for speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any

import psycopg
import sqlalchemy as sa

from busway.gateway.store.core.transaction import ATTEMPT, COLUMNS, Bounds, Head, Values
from busway.gateway.store.postgres import connections, statements
from busway.gateway.store.postgres.snapshot import PostgresSnapshot

COUNTS_EVERY = 200  # commits whose changes of counts are added up in one row
_LOG = COLUMNS[ATTEMPT][1].index("log")


class PostgresTransaction(PostgresSnapshot):
    """Implements `Transaction` over a connection in autocommit mode.

    Args:
        connection: the connection. Nobody else uses it.
        epoch: of the log.

    Attributes:
        newest: the newest row of `commits` that this object has written: number, event, run, result, digest.
    """

    def __init__(self, connection: sa.Connection, epoch: str) -> None:
        super().__init__(connection)
        driver: Any = connection.connection.driver_connection
        self._driver: psycopg.Connection[Any] = driver
        self._epoch = epoch
        self._waiting: list[tuple[str, Sequence[Any]]] = []
        self.newest: Values = (0,)
        self._head: Values = ()
        self._number = 0
        self._counts: list[Values] = []
        self._mark = 0

    def begin(self) -> Head:
        """Begin, wait until nobody else writes, and return the newest numbers."""
        self._waiting, self._counts = [(statements.BEGIN, ()), (statements.LOCK, ())], []
        # A statement sees what was committed before it began, so the lock is taken in a statement of its own.
        (row,) = self._read(statements.SELECT_HEAD)
        self._number, event, run, result, digest = row
        return Head(self._epoch, event, run, result, digest)

    def commit(self) -> None:
        """Write everything, synced to disk."""
        self._add("COMMIT")
        self._send()
        self.newest = self._head

    def rollback(self) -> None:
        """Write nothing of what was begun."""
        self._waiting = [("ROLLBACK", ())]
        self._send()

    def mark(self) -> None:
        """Remember this place for `back`."""
        self._mark = len(self._counts)
        self._add("SAVEPOINT one")
        self._send()

    def back(self) -> None:
        """Undo everything since `mark`, and forget it."""
        del self._counts[self._mark :]
        self._waiting = [("ROLLBACK TO one", ()), ("RELEASE one", ())]
        self._send()

    def forget_mark(self) -> None:
        """Forget the place of `mark`."""
        self._add("RELEASE one")
        self._send()

    def is_refusal(self, problem: BaseException) -> bool:
        """Return whether an error concerns one operation, and not the server or the connection."""
        cause = getattr(problem, "orig", None) or problem
        return isinstance(cause, psycopg.IntegrityError | psycopg.DataError) or not isinstance(
            cause, psycopg.Error | sa.exc.SQLAlchemyError
        )

    def cause(self, problem: BaseException) -> str:
        """Return PostgreSQL's message."""
        return connections.cause(problem)

    def execute(
        self, statement: sa.Executable, parameters: dict[str, Any] | list[dict[str, Any]] | None = None
    ) -> sa.CursorResult[Any]:
        """Run a statement on the small tables."""
        self._send()
        return self.connection.execute(statement, parameters)

    def load(self, runs: Sequence[int], pairs: Sequence[tuple[str, str]]) -> tuple[list[Any], list[Any]]:
        """Read these runs, and the numbers of the events that are stored."""
        queries: list[tuple[str, Sequence[Any]]] = []
        if runs:
            queries.append((statements.SELECT_RUNS, (list(runs),)))
        if pairs:
            queries.append((statements.SELECT_SEEN, tuple(map(list, zip(*pairs, strict=True)))))
        found = self._send(*queries)
        return found[0] if runs else [], found[-1] if pairs else []

    def tree(self, root: int) -> Values | None:
        """Return the row of `trees` of a root event."""
        return next(iter(self._read(statements.SELECT_TREE, root)), None)

    def newest_commit(self) -> Values:
        """Return number, event, run, result and digest of the newest commit."""
        row: Values = self._read(statements.SELECT_HEAD)[0]
        return row

    def has_commit(self, row: Values) -> bool:
        """Return whether this commit, as from `newest_commit`, is in the database."""
        return self._read(statements.SELECT_COMMIT, row[0]) == [row]

    def results_after(self, number: int) -> list[Values]:
        """Return (number, run, attempt, idx, completes) of the results after one."""
        return self._read(statements.SELECT_RESULTS_AFTER, number)

    def insert(self, what: int, rows: Sequence[Values]) -> None:
        """Insert rows."""
        columns = _transposed(rows)
        if what == ATTEMPT:
            columns[_LOG] = [None if log is None else log.encode() for log in columns[_LOG]]
        self._add(statements.INSERT[what], *columns)

    def update_runs(self, rows: Sequence[Values]) -> None:
        """Update runs: `MUTABLE` and the id."""
        self._add(statements.UPDATE_RUN, *_transposed(rows))

    def update_settled(self, rows: Sequence[Values]) -> None:
        """Update runs: `SETTLED` and the id."""
        self._add(statements.UPDATE_SETTLED, *_transposed(rows))

    def put_trees(self, rows: Sequence[Values], gone: Sequence[int]) -> None:
        """Insert or replace rows of `trees`, and delete those of roots that are complete."""
        if rows:
            self._add(statements.UPSERT_TREE, *_transposed(rows))
        if gone:
            self._add(statements.DELETE_TREES, list(gone))

    def add_counts(self, rows: Sequence[Values]) -> None:
        """Add to the number of runs of a handler in a state."""
        self._counts += rows

    def put_errors(self, rows: Sequence[tuple[int, str]]) -> None:
        """Replace the newest error of handlers."""
        handlers, errors = _transposed(rows)
        self._add(statements.INSERT_ERRORS, self._number + 1, handlers, errors)

    def write_head(self, new: Head) -> None:
        """Write the newest numbers."""
        number = self._number + 1
        self._head = (number, new.event, new.run, new.result, new.digest)
        changes = list(chain.from_iterable(self._counts))
        self._add(statements.INSERT_HEAD, *self._head, changes)
        if number % COUNTS_EVERY == 0:
            self._send()
            self._add(statements.INSERT_COUNTS, number, list(chain.from_iterable(self.counts())))

    def clear_partition_keys(self, runs: Sequence[int]) -> None:
        """Take the partition keys away from runs."""
        self._add(statements.CLEAR_PARTITION_KEY, list(runs))

    def prune_results(self, until: int, digest: int) -> int:
        """Delete the results up to a number and move the floor there."""
        self._send()
        removed = self._driver.execute(statements.DELETE_RESULTS, (until,)).rowcount
        self._add(statements.MOVE_FLOOR, until, digest)
        return removed

    def restore(self, bounds: Bounds, counts: Sequence[Values], errors: Sequence[tuple[int, str]]) -> None:
        """Write the head, the numbers of runs, and the newest errors. New ids go on behind those inserted."""
        self._epoch = bounds.epoch
        self._add(statements.RESTORE_CELL, bounds.epoch, bounds.floor, bounds.floor_digest)
        self.add_counts(counts)
        if errors:
            self.put_errors(errors)
        self.write_head(Head(bounds.epoch, bounds.event, bounds.run, bounds.result, bounds.digest))
        for statement in statements.RESTORE_IDS:
            self._add(statement)

    def prune_events(self, events: Sequence[int]) -> tuple[list[tuple[int, int, int]], int]:
        """Delete events with their runs and attempts."""
        ended = self._read(statements.DELETE_RUNS, list(events))
        self._add(statements.DELETE_ATTEMPTS, [id_ for id_, *_ in ended])
        self._send()
        return ended, self._driver.execute(statements.DELETE_EVENTS, (list(events),)).rowcount

    def _rows(self, query: sa.Executable, parameters: Any) -> list[Any]:
        self._send()  # what the query is to see
        return super()._rows(query, parameters)

    def _read(self, statement: str, *parameters: Any) -> list[Any]:
        return self._send((statement, parameters))[0]

    def _add(self, statement: str, *parameters: Any) -> None:
        self._waiting.append((statement, parameters))

    def _send(self, *queries: tuple[str, Sequence[Any]]) -> list[list[Any]]:
        """Send the collected statements and queries in one round trip. Return the rows of each query."""
        if not (self._waiting or queries):
            return []
        waiting, self._waiting = self._waiting, []
        with self._driver.pipeline():
            for statement, parameters in waiting:
                self._driver.execute(statement, parameters)
            cursors = [self._driver.execute(statement, parameters) for statement, parameters in queries]
        return [cursor.fetchall() for cursor in cursors]


def _transposed(rows: Sequence[Values]) -> list[Any]:
    return [list(column) for column in zip(*rows, strict=True)]
