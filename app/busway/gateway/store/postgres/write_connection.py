"""The write connection of PostgreSQL."""

from __future__ import annotations

import secrets
import time
from typing import Any

import psycopg
import sqlalchemy as sa

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

    Each gateway that opens the database names itself there. So a gateway that lost its connection, or its
    committer, notices that another one has been at work meanwhile.

    Args:
        url: the database, migrated.
        known: the name under which an earlier committer of this gateway opened it, None for the first one.

    Raises:
        Unusable: it cannot be reached, or another gateway uses it.
    """

    errors = connections.ERRORS
    blocked = False
    due = True  # each pause checks the connection

    def __init__(self, url: str, known: list[FileId] | None) -> None:
        self._engine = connections.engine(url, "committer", poolclass=sa.NullPool)
        self._broken = self._lacks = False
        self._tidy_at = time.monotonic()
        try:
            self._connection = self._engine.connect()
            connections.lock(self._connection)
            self._name = known[0][0] if known else self._claim()
            self.epoch = self._cell().epoch
            self._begin()
            self.head = self.newest()
        except connections.ERRORS as problem:
            raise Unusable(f"PostgreSQL: {connections.cause(problem)}") from None

    @property
    def commit(self) -> int:
        """The number of the newest commit, -1 if the database is not as this gateway left it."""
        number: int = self._transaction.newest[0]
        return -1 if self._lacks else number

    @property
    def files(self) -> list[FileId]:
        """The name under which this gateway opened the database, in the place of files."""
        return [(self._name, 0)]

    def problem(self, *, recent: bool = False) -> str | None:
        """Return why PostgreSQL cannot be reached. `recent`: None without a check."""
        if recent:
            return None
        try:
            if self._broken:
                self._reconnect()
            self._connection.exec_driver_sql("SELECT 1")
        except (sa.exc.DBAPIError, psycopg.Error, Unusable) as problem:
            self._broken = True
            return f"PostgreSQL cannot be used: {connections.cause(problem)}"
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

    def _reconnect(self) -> None:
        fresh = self._engine.connect()
        try:
            # A server that did not notice that the connection broke keeps its session, which has the lock.
            fresh.exec_driver_sql(statements.END_SESSION, (self._session,))
            connections.lock(fresh)
        except BaseException:
            fresh.close()
            raise
        if not self._connection.closed:
            self._connection.invalidate()
            self._connection.close()
        self._connection = fresh
        if self._cell().epoch != self.epoch:
            raise Unusable("another database is in the place of this one: start the gateway again")
        known = self._transaction.newest
        self._begin()
        self._lacks |= not self._transaction.has_commit(known)

    def _begin(self) -> None:
        driver: Any = self._connection.connection.driver_connection
        self._session: int = driver.info.backend_pid
        self._lacks |= self._cell().writer != self._name
        self._transaction = PostgresTransaction(self._connection, self.epoch)
        self._transaction.newest = self._transaction.newest_commit()
        self.writer = Writer(self._transaction)

    def _claim(self) -> int:
        """Name this gateway as the one that uses the database. Return the name."""
        name = secrets.randbits(62)
        self._connection.execute(sa.update(cell).values(writer=name))
        return name

    def _cell(self) -> Any:
        return self._connection.execute(sa.select(cell)).one()

    def _tidy(self) -> None:
        self._tidy_at = time.monotonic()
        number = self._connection.exec_driver_sql("SELECT max(number) FROM commits").scalar_one()
        for statement in statements.TIDY:
            self._connection.exec_driver_sql(statement, {"oldest": number - KEPT})
