"""The writing transaction of PostgreSQL.

An advisory lock admits one writer. Statements are collected and sent together in a pipeline: a batch takes
two round trips. Statements of every batch bypass SQLAlchemy for speed.
"""

from __future__ import annotations

import base64
import hmac
import time
from collections.abc import Sequence
from copy import deepcopy
from itertools import chain
from typing import Any

import msgspec
import psycopg
import sqlalchemy as sa

from busway.gateway.store.core.schema import RUNNING, AnyText
from busway.gateway.store.core.transaction import (
    ATTEMPT,
    COLUMNS,
    MUTABLE,
    Bounds,
    Expelled,
    Head,
    Values,
)
from busway.gateway.store.port.cell import CommitChanges, CommitRow
from busway.gateway.store.port.news import Content, News, encoded
from busway.gateway.store.port.operations import Lead
from busway.gateway.store.postgres import connections, statements
from busway.gateway.store.postgres.pipeline import Pipeline
from busway.gateway.store.postgres.snapshot import PostgresSnapshot

COUNTS_EVERY = 200  # commits whose changes of counts are added up in one row
MOST_NOTIFIED = 5_900  # bytes, which are less than 8,000 in Base64: the limit of NOTIFY
LARGEST_NEWS = 32 * 1024  # bytes
QUIET = 10.0  # seconds without NOTIFY after its queue was full
_FULL_QUEUE = "PreCommit_Notify"  # the server's function; its messages may be in any language
_PURPOSE = b"busway channel "
_LOG = COLUMNS[ATTEMPT][1].index("log")
_NODE = MUTABLE.index("node")


class PostgresTransaction(PostgresSnapshot):
    """Implements `Transaction` over a connection in autocommit mode.

    Args:
        connection: the connection. Nobody else uses it.
        epoch: of the log.
        node: the id of the node, 0 for a command.
        notifies: whether a commit notifies the other nodes.

    Attributes:
        newest: the newest row of `commits` that this object has written: number, event, run, result, digest.
        news: of the newest commit, if it does not notify the other nodes and there are some. Empty if it is
            large.
    """

    def __init__(
        self, connection: sa.Connection, epoch: str, node: int = 0, *, notifies: bool = True
    ) -> None:
        super().__init__(connection)
        driver: Any = connection.connection.driver_connection
        self._driver: connections.Connection = driver
        self._pipeline = Pipeline(driver)
        self._epoch, self._node, self._notifies = epoch, node, notifies
        self.several, self._rules, self._term, self._leader = False, 0, 0, 0
        self.news = b""
        self._content: Content | None = None
        self._channel = ""
        self._quiet_until = 0.0
        self._before = (0, 0, 0, 0)  # newest event, run and result, and its digest
        self._loaded: tuple[Any, list[Any], list[Any]] | None = None  # by `begin`: what, and the rows
        self._open: list[int] = []  # nodes whose rows are open
        self._waiting: list[tuple[str, Sequence[Any]]] = []
        self.newest: Values = (0,)
        self._head: Values = ()
        self._number = 0
        self._counts: list[Values] = []
        self._mark: tuple[int, dict[int, tuple[int, int | None]], CommitChanges] = (0, {}, CommitChanges())
        self._changed: dict[int, tuple[int, int | None]] = {}  # state and node of older runs, by id
        self._notes = CommitChanges()  # except what `_changed` says

    def begin(self, runs: Sequence[int] = (), pairs: Sequence[tuple[str, str]] = ()) -> Head:
        """Begin, wait until nobody else writes, and return the newest numbers.

        Raises:
            Expelled: the row of this node is closed.
        """
        self._waiting, self._counts = [(statements.BEGIN, ()), (statements.LOCK, ())], []
        self._changed, self._notes = {}, CommitChanges()
        self._content, self.news = None, b""
        # A statement sees what was committed before it began, so the lock is taken in a statement of its own.
        (row,), *found = self._send((statements.SELECT_STATE, ()), *_loading(runs, pairs))
        self._loaded = ((runs, pairs), found[0] if runs else [], found[-1] if pairs else [])
        self._number, event, run, result, digest, rules, (self._term, self._leader), self._open = row
        self._before = (event, run, result, digest)
        self.several = any(node != self._node for node in self._open)
        if self._node and self._node not in self._open:
            self.rollback()
            raise Expelled
        self._rules = rules
        if not self._node:
            return Head(self._epoch, event, run, result, digest)
        return Head(self._epoch, event, run, result, digest, rules, self._node)

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
        self._mark = len(self._counts), {**self._changed}, deepcopy(self._notes)
        self._add("SAVEPOINT one")
        self._send()

    def back(self) -> None:
        """Undo everything since `mark`, and forget it."""
        counts, self._changed, self._notes = self._mark
        del self._counts[counts:]
        self._waiting = [("ROLLBACK TO one", ()), ("RELEASE one", ())]
        self._send()

    def forget_mark(self) -> None:
        """Forget the place of `mark`."""
        self._add("RELEASE one")
        self._send()

    def is_refusal(self, problem: BaseException) -> bool:
        """Return whether an error concerns one operation, and not the server or the connection.

        Or it concerns NOTIFY, because its queue is full, and a commit without one is possible: a session
        somewhere on the server listens and stays in a transaction.
        """
        cause = getattr(problem, "orig", None) or problem
        if isinstance(cause, psycopg.errors.ProgramLimitExceeded):
            if cause.diag.source_function == _FULL_QUEUE:
                self._quiet_until = time.monotonic() + QUIET
            return True
        return isinstance(cause, psycopg.IntegrityError | psycopg.DataError) or not isinstance(
            cause, psycopg.Error | sa.exc.SQLAlchemyError
        )

    def cause(self, problem: BaseException) -> str:
        """Return PostgreSQL's message."""
        text, cause = connections.cause(problem), getattr(problem, "orig", None) or problem
        if isinstance(cause, psycopg.errors.ProgramLimitExceeded):
            return f"a text is too long for an index of PostgreSQL, such as id and source together: {text}"
        return text

    def execute(
        self, statement: sa.Executable, parameters: dict[str, Any] | list[dict[str, Any]] | None = None
    ) -> sa.CursorResult[Any]:
        """Run a statement on the small tables."""
        self._send()
        return self.connection.execute(statement, parameters)

    def load(self, runs: Sequence[int], pairs: Sequence[tuple[str, str]]) -> tuple[list[Any], list[Any]]:
        """Read these runs, and the numbers of the events that are stored."""
        loaded, self._loaded = self._loaded, None
        if loaded is not None and loaded[0] == (runs, pairs):
            return loaded[1:]
        found = self._send(*_loading(runs, pairs))
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

    def insert_into(self, table: sa.Table, columns: Sequence[str], rows: Sequence[Values]) -> None:
        """Insert rows into any table of the core."""
        arrays = _transposed(rows)
        for place, name in enumerate(columns):
            if isinstance(table.c[name].type, AnyText):
                arrays[place] = [None if text is None else text.encode() for text in arrays[place]]
        self._add(statements.insert(table, columns), *arrays)

    def update_runs(self, rows: Sequence[Values]) -> None:
        """Update runs: `MUTABLE` and the id."""
        self._add(statements.UPDATE_RUN, *_transposed(rows))
        if self.several:
            for row in rows:
                self._changed[row[-1]] = row[0], row[_NODE]

    def update_settled(self, rows: Sequence[Values]) -> None:
        """Update runs: `SETTLED` and the id."""
        self._add(statements.UPDATE_SETTLED, *_transposed(rows))
        if self.several:
            for row in rows:
                self._changed[row[-1]] = row[0], None

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
        counts = list(chain.from_iterable(self._counts))
        rules = new.rules or self._rules
        changes = self._changes() if self.several else CommitChanges()
        changed = msgspec.msgpack.encode(changes) if changes else b""
        self._add(statements.INSERT_HEAD, *self._head, self._node, rules, counts, changed)
        if self.several:
            self._notify(rules, changes)
        if number % COUNTS_EVERY == 0:
            self._send()
            self._add(statements.INSERT_COUNTS, number, list(chain.from_iterable(self.counts())))

    def take_lead(self, operation: Lead) -> bool:
        """Make a node the leader, unless another one became it."""
        if not self._node:
            return True
        (newest,) = self._read(statements.SELECT_TERM)
        for id_, beat in operation.gone:
            self._add(statements.CLOSE_NODE, operation.now, id_, beat)
        self._add(statements.CLEAR_LINGERING)
        closed = {id_ for id_, _ in operation.gone}
        self._open = [node for node in self._open if node not in closed]
        self._send()
        if newest == (operation.term, operation.node):
            return True
        if newest[0] != operation.term - 1:
            return False
        if newest[1] != self._node and self._read(statements.IS_OPEN, newest[1])[0][0]:
            return False
        self._add(statements.INSERT_TERM, operation.term, operation.node, operation.now)
        self._term, self._leader = operation.term, operation.node
        return True

    def add_news(self, content: Content | None) -> None:
        """Add what this transaction writes to its message, so that the other nodes need not read it."""
        self._content = content

    def _notify(self, rules: int, changes: CommitChanges) -> None:
        number, event, run, result, digest = self._head
        row = CommitRow(
            number=number,
            node=self._node,
            event=event,
            run=run,
            result=result,
            digest=digest,
            rules=rules,
            changes=changes,
        )
        if self._content is not None:
            self._content.final = all(state >= RUNNING for state, _ in self._changed.values())
        if self._notifies and self._quiet_until:
            if time.monotonic() < self._quiet_until:
                return  # the other nodes look once a second
            self._quiet_until = 0.0
            self._add(statements.MAKE_ROOM_FOR_NOTIFY)
        news = encoded(
            News(row, self._before, self._content), MOST_NOTIFIED if self._notifies else LARGEST_NEWS
        )
        if self._notifies:
            text = base64.b64encode(news).decode() or str(number)
            if not self._channel:
                [(secret,)] = self._read(statements.SELECT_SECRET)
                self._channel = channel(self._epoch, secret)
            self._add(statements.NOTIFY, self._channel, text)
        else:
            self.news = news

    def lost_runs(self) -> list[int]:
        """Return the running runs that no open node has."""
        return [id_ for (id_,) in self._read(statements.SELECT_LOST)]

    @property
    def leads(self) -> bool:
        """Whether this node leads."""
        return self._leader == self._node

    def may_assign(self, term: int, node: int) -> bool:
        """Return whether the term is the newest one and the node is open."""
        return term == self._term and node in self._open

    def lingers(self, run: int, node: int | None) -> None:
        """Let the other nodes know that the attempt that ended may still run, on the node that has it."""
        self._notes.lingering.append(run)
        self._add(statements.INSERT_LINGERING, node or 0, run)

    def stopped(self, runs: Sequence[int]) -> None:
        """Let the other nodes know that nothing of the attempts of these runs runs any more."""
        self._notes.stopped.extend(runs)
        self._add(statements.DELETE_LINGERING, list(runs))

    def replays_changed(self) -> None:
        """Let the other nodes know that a replay was created or cancelled."""
        self._notes.replays = True

    def keys_changed(self) -> None:
        """Let the other nodes know that an API key was created or revoked."""
        self._notes.keys = True

    def durable_taken(self, name: str, generation: int) -> None:
        """Let the other nodes know that a subscription of this one took over a durable name."""
        self._notes.durables.append((name, generation))

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
        self._epoch, self._channel = bounds.epoch, ""
        self._add(statements.RESTORE_CELL, bounds.epoch, bounds.floor, bounds.floor_digest)
        self.add_counts(counts)
        if errors:
            self.put_errors(errors)
        self.write_head(Head(bounds.epoch, bounds.event, bounds.run, bounds.result, bounds.digest, 1))
        for statement in statements.RESTORE_IDS:
            self._add(statement)

    def prune_events(self, events: Sequence[int]) -> tuple[list[tuple[int, int, int]], int]:
        """Delete events with their runs and attempts."""
        ended = self._read(statements.DELETE_RUNS, list(events))
        self._add(statements.DELETE_ATTEMPTS, [id_ for id_, *_ in ended])
        self._send()
        return ended, self._driver.execute(statements.DELETE_EVENTS, (list(events),)).rowcount

    def _changes(self) -> CommitChanges:
        changes = self._notes
        for id_, (state, node) in self._changed.items():
            if state != RUNNING:
                changes.ended.append(id_)
            elif node is not None and node != self._node:
                changes.assigned.append((id_, node))
        return changes

    def rows(self, query: sa.Executable, parameters: Any) -> list[Any]:
        """Run a query and return its rows. It sees what this transaction has collected."""
        self._send()
        return super().rows(query, parameters)

    def _read(self, statement: str, *parameters: Any) -> list[Any]:
        return self._send((statement, parameters))[0]

    def _add(self, statement: str, *parameters: Any) -> None:
        self._waiting.append((statement, parameters))

    def _send(self, *queries: tuple[str, Sequence[Any]]) -> list[list[Any]]:
        """Send the collected statements and queries in one round trip. Return the rows of each query."""
        if not (self._waiting or queries):
            return []
        waiting, self._waiting = self._waiting, []
        return self._pipeline.run([*waiting, *queries], len(queries))


def _loading(runs: Sequence[int], pairs: Sequence[tuple[str, str]]) -> list[tuple[str, Sequence[Any]]]:
    queries: list[tuple[str, Sequence[Any]]] = []
    if runs:
        queries.append((statements.SELECT_RUNS, (list(runs),)))
    if pairs:
        queries.append((statements.SELECT_SEEN, tuple(map(list, zip(*pairs, strict=True)))))
    return queries


def channel(epoch: str, secret: bytes) -> str:
    """Return the name of the channel on which nodes hear of commits.

    Only who may read the tables knows it: everybody who may connect to a database may listen to any channel.
    """
    return f"busway_{hmac.digest(secret, _PURPOSE + epoch.encode(), 'sha256').hex()[:32]}"


def _transposed(rows: Sequence[Values]) -> list[Any]:
    return [list(column) for column in zip(*rows, strict=True)]
