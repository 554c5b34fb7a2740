"""The writing transaction of SQLite. Statements of every batch bypass SQLAlchemy for speed."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from busway.gateway.store.core.transaction import Bounds, Head, Replaced, Values
from busway.gateway.store.port.news import Content
from busway.gateway.store.port.operations import Lead
from busway.gateway.store.sqlite import statements
from busway.gateway.store.sqlite.schema import head
from busway.gateway.store.sqlite.snapshot import SQLiteSnapshot


class SQLiteTransaction(SQLiteSnapshot):
    """Implements `Transaction` over a connection in autocommit mode.

    Args:
        connection: the connection. Nobody else uses it.
        name: the number with which this writer claims the head. None writes without claiming it.
        node: the number of the node that writes, None for a command or if it is not known yet.
    """

    def __init__(self, connection: sa.Connection, name: int | None = None, node: int | None = None) -> None:
        super().__init__(connection)
        self._name, self._node = name, node
        self._cursor = connection.connection.cursor()

    several, leads = False, True

    def close(self) -> None:
        """Forget the statements. Otherwise SQLite keeps the files of a closed connection open."""
        self._cursor.close()

    def claim(self, node: str) -> Head:
        """Become the only committer. The next `begin` of any other raises `Replaced`.

        `node`: the name of the node.

        Raises:
            sqlite3.Error, sqlalchemy.exc.DBAPIError: the database failed.
        """
        self._run("BEGIN IMMEDIATE")
        self._cursor.execute(statements.CLAIM_HEAD, (self._name,))
        ((self._node,),) = self._rows(statements.SELECT_NODE, node)
        if self._node is None:
            self._cursor.execute(statements.INSERT_NODE, (node,))
            self._node = self._cursor.lastrowid
        newest = self._head()[0]
        self.commit()
        return newest

    def begin(
        self,
        runs: Sequence[int] = (),  # noqa: ARG002 - the port's
        pairs: Sequence[tuple[str, str]] = (),  # noqa: ARG002 - as above
    ) -> Head:
        """Begin, and return the newest numbers.

        Raises:
            Replaced: another committer claimed the database.
        """
        self._run("BEGIN IMMEDIATE")
        newest, writer = self._head()
        if self._name is not None and writer != self._name:
            self.rollback()
            raise Replaced
        return newest

    def commit(self) -> None:
        """Write everything, synced to disk."""
        self._run("COMMIT")

    def rollback(self) -> None:
        """Write nothing of what was begun."""
        self._run("ROLLBACK")

    def mark(self) -> None:
        """Remember this place for `back`."""
        self._run("SAVEPOINT one")

    def back(self) -> None:
        """Undo everything since `mark`, and forget it."""
        self._run("ROLLBACK TO one")
        self._run("RELEASE one")

    def forget_mark(self) -> None:
        """Forget the place of `mark`."""
        self._run("RELEASE one")

    def is_refusal(self, problem: BaseException) -> bool:
        """Return whether an error concerns one operation, and not disk, lock or file."""
        cause = getattr(problem, "orig", None) or problem
        fatal = isinstance(cause, sqlite3.OperationalError | sqlite3.InternalError)
        return not (fatal or type(cause) is sqlite3.DatabaseError)

    def cause(self, problem: BaseException) -> str:
        """Return SQLite's error message."""
        return str(getattr(problem, "orig", None) or problem)

    def execute(
        self, statement: sa.Executable, parameters: dict[str, Any] | list[dict[str, Any]] | None = None
    ) -> sa.CursorResult[Any]:
        """Run a statement on the small tables."""
        return self.connection.execute(statement, parameters)

    def load(self, runs: Sequence[int], pairs: Sequence[tuple[str, str]]) -> tuple[list[Any], list[Any]]:
        """Read these runs, and the numbers of the events that are stored."""
        found = self._rows(statements.SELECT_RUNS, _json(runs)) if runs else []
        return found, self._rows(statements.SELECT_SEEN, _json(pairs)) if pairs else []

    def tree(self, root: int) -> Values | None:
        """Return the row of `trees` of a root event."""
        return next(iter(self._rows(statements.SELECT_TREE, root)), None)

    def results_after(self, number: int) -> list[Values]:
        """Return (number, run, attempt, idx, completes) of the results after one."""
        return self._rows(statements.SELECT_RESULTS_AFTER, number)

    def insert(self, what: int, rows: Sequence[Values]) -> None:
        """Insert rows."""
        self._cursor.executemany(statements.INSERT[what], rows)

    def insert_into(self, table: sa.Table, columns: Sequence[str], rows: Sequence[Values]) -> None:
        """Insert rows into any table of the core."""
        names, marks = (", ".join(each) for each in ((f'"{name}"' for name in columns), "?" * len(columns)))
        self._cursor.executemany(f"INSERT INTO {table.name} ({names}) VALUES ({marks})", rows)  # noqa: S608

    def update_runs(self, rows: Sequence[Values]) -> None:
        """Update runs: `MUTABLE` and the id."""
        self._cursor.executemany(statements.UPDATE_RUN, rows)

    def update_settled(self, rows: Sequence[Values]) -> None:
        """Update runs: `SETTLED` and the id."""
        self._cursor.executemany(statements.UPDATE_SETTLED, rows)

    def put_trees(self, rows: Sequence[Values], gone: Sequence[int]) -> None:
        """Insert or replace rows of `trees`, and delete those of roots that are complete."""
        if rows:
            self._cursor.executemany(statements.UPSERT_TREE, rows)
        if gone:
            self._cursor.executemany(statements.DELETE_TREE, [(root,) for root in gone])

    def add_counts(self, rows: Sequence[Values]) -> None:
        """Add to the number of runs of a handler in a state."""
        self._cursor.executemany(statements.UPSERT_COUNT, rows)

    def put_errors(self, rows: Sequence[tuple[int, str]]) -> None:
        """Replace the newest error of handlers."""
        self._cursor.executemany(statements.UPSERT_ERROR, rows)

    def add_news(self, content: Content | None) -> None:
        """Do nothing: there are no other nodes."""

    def write_head(self, new: Head) -> None:
        """Write the newest numbers."""
        self._cursor.execute(statements.UPDATE_HEAD, (new.event, new.run, new.result, new.digest))

    def take_lead(self, operation: Lead) -> bool:  # noqa: ARG002 - the port's
        """Return True: there is one node, which has the file's lock."""
        return True

    def lost_runs(self) -> list[int]:
        """Return the running runs: their gateway has ended."""
        return [id_ for (id_,) in self._rows(statements.SELECT_RUNNING)]

    def may_assign(self, term: int, node: int) -> bool:  # noqa: ARG002 - the port's
        """Return False: there is no other node."""
        return False

    def lingers(self, run: int, node: int | None) -> None:
        """Do nothing: there is no other node."""

    def stopped(self, runs: Sequence[int]) -> None:
        """Do nothing: there is no other node."""

    def replays_changed(self) -> None:
        """Do nothing: there is no other node."""

    def keys_changed(self) -> None:
        """Do nothing: there is no other node."""

    def durable_taken(self, name: str, generation: int) -> None:
        """Do nothing: there is no other node."""

    def clear_partition_keys(self, runs: Sequence[int]) -> None:
        """Take the partition keys away from runs."""
        self._cursor.execute(statements.CLEAR_PARTITION_KEY, (None, _json(runs)))

    def prune_results(self, until: int, digest: int) -> int:
        """Delete the results up to a number and move the floor there."""
        removed = self._rows(statements.DELETE_RESULTS, until)
        self._cursor.execute(statements.MOVE_FLOOR, (until, digest))
        return len(removed)

    def restore(self, bounds: Bounds, counts: Sequence[Values], errors: Sequence[tuple[int, str]]) -> None:
        """Write the head, the numbers of runs, and the newest errors."""
        self.connection.execute(sa.update(head), msgspec.structs.asdict(bounds))
        self.add_counts(counts)
        self.put_errors(errors)

    def prune_events(self, events: Sequence[int]) -> tuple[list[tuple[int, int, int]], int]:
        """Delete events with their runs and attempts."""
        listed = _json(events)
        ended = self._rows(statements.DELETE_RUNS, listed)
        self._cursor.execute(statements.DELETE_ATTEMPTS, (_json([id_ for id_, *_ in ended]),))
        return ended, len(self._rows(statements.DELETE_EVENTS, listed))

    def _rows(self, statement: str, *parameters: Any) -> list[Any]:
        self._cursor.execute(statement, parameters)
        return list(self._cursor.fetchall())

    def _head(self) -> tuple[Head, int]:
        ((epoch, writer, event, run, result, digest),) = self._rows(statements.SELECT_HEAD)
        return Head(epoch, event, run, result, digest, node=self._node), writer

    def _run(self, statement: str) -> None:
        self._cursor.execute(statement)


def _json(values: Sequence[Any]) -> str:
    return msgspec.json.encode(values).decode()
