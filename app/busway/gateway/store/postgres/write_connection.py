"""The write connection of PostgreSQL."""

from __future__ import annotations

import time
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.pq import TransactionStatus

from busway.gateway.store.core.transaction import Unusable
from busway.gateway.store.core.writer import Writer
from busway.gateway.store.group.frames import FileId
from busway.gateway.store.postgres import connections, statements
from busway.gateway.store.postgres.schema import cell
from busway.gateway.store.postgres.transaction import PostgresTransaction

KEPT = 10_000  # commits
TIDY_EVERY = 60.0  # seconds


class PostgresWriteConnection:
    """Implements `WriteConnection`.

    Args:
        url: the database, migrated.
        node: the id of the node.
        notifies: whether its commits notify the other nodes.

    Raises:
        Unusable: it cannot be reached, or an import uses it.
    """

    errors = connections.ERRORS
    blocked = False
    due = True  # each pause checks the connection

    def __init__(self, url: str, node: int, *, notifies: bool = True) -> None:
        self._node, self._notifies = node, notifies
        self._engine = connections.engine(
            url, f"committer/{node}", connections.PATIENCE, connections.BY_INDEX, poolclass=sa.NullPool
        )
        self._broken = self._lacks = False
        self._tidy_at = time.monotonic()
        try:
            self._connection = self._engine.connect()
            connections.lock(self._connection)
            self.epoch = self._epoch()
            self._begin()
            self._confirm()
            self.head = self.newest()
        except connections.ERRORS as problem:
            raise Unusable(f"PostgreSQL: {connections.cause(problem)}") from None

    @property
    def commit(self) -> int:
        """The number of the newest commit, -1 if the database is not as this node left it."""
        number: int = self._transaction.newest[0]
        return -1 if self._lacks else number

    @property
    def news(self) -> bytes:
        """The message about the newest commit, if the commit itself did not notify the other nodes."""
        return self._transaction.news

    @property
    def files(self) -> list[FileId]:
        """None: the server has them."""
        return []

    def problem(self, *, recent: bool = False) -> str | None:
        """Return why PostgreSQL cannot be reached. `recent`: None without a check."""
        if recent:
            return None
        try:
            if self._broken:
                self._reconnect()
                self._confirm()
            else:
                self._look()
        except (sa.exc.DBAPIError, psycopg.Error, Unusable) as problem:
            self._broken = True
            silent = self._driver.silent
            why = connections.no_answer() if silent else connections.cause(problem)
            return f"PostgreSQL cannot be used: {why}"
        self._broken = False
        return None

    def cause(self, problem: BaseException) -> str:
        """Return the server's message."""
        return connections.cause(problem)

    def written(self) -> None:
        """Delete what nobody reads any more, once a minute."""
        if time.monotonic() - self._tidy_at > TIDY_EVERY:
            self._tidy()

    def idle(self) -> None:
        """Do as after a batch."""
        self.written()

    def save(self) -> None:
        """Do nothing: a server has no files that could be lost."""

    def reopen(self) -> int:
        """Reconnect after an error and return the newest result number."""
        self._reconnect()
        return self.newest()

    def newest(self) -> int:
        """Return the number of the newest result."""
        return self._transaction.bounds().result

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
        self._engine.dispose()

    def _look(self) -> None:
        """Check that the server answers, and may be written. End a transaction that an error left open.

        Raises:
            Unusable: it is read-only.
        """
        if self._driver.info.transaction_status is not TransactionStatus.IDLE:
            self._connection.exec_driver_sql("ROLLBACK")
        if self._connection.exec_driver_sql("SHOW transaction_read_only").scalar_one() == "on":
            raise Unusable("it is read-only, such as a replica")

    def _reconnect(self) -> None:
        fresh = self._engine.connect()
        try:
            # A server that did not notice that the connection broke keeps its session, which has the lock.
            fresh.exec_driver_sql(statements.END_SESSION, self._session)
            connections.lock(fresh)
        except BaseException:
            fresh.close()
            raise
        if not self._connection.closed:
            self._connection.invalidate()
            self._connection.close()
        self._connection = fresh
        if self._epoch() != self.epoch:
            raise Unusable("another database is in the place of this one: start the gateway again")
        known = self._transaction.newest
        self._begin()
        self._transaction.newest = known
        self._lacks |= not self._transaction.has_commit(known)

    def _begin(self) -> None:
        driver: Any = self._connection.connection.driver_connection
        self._driver: connections.Connection = driver
        self._session: tuple[Any, ...] = tuple(self._connection.exec_driver_sql(statements.SESSION).one())
        is_open = self._connection.exec_driver_sql(statements.IS_OPEN, (self._node,)).scalar_one()
        self._lacks |= bool(self._node) and not is_open
        self._transaction = PostgresTransaction(
            self._connection, self.epoch, self._node, notifies=self._notifies
        )
        self.writer = Writer(self._transaction)

    def _confirm(self) -> None:
        """Wait until everything that is visible is synced, on a synchronous standby, too.

        A commit whose session ended while it waited for the standby is visible before.
        """
        if not self._lacks:
            self.writer.write([])

    def _epoch(self) -> str:
        return str(self._connection.execute(sa.select(cell.c.epoch)).scalar_one())

    def _tidy(self) -> None:
        self._tidy_at = time.monotonic()
        number = self._connection.exec_driver_sql("SELECT max(number) FROM commits").scalar_one()
        for statement in statements.TIDY:
            self._connection.exec_driver_sql(statement, {"oldest": number - KEPT})
