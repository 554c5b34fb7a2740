"""PostgreSQL's connections for reads. They cannot write."""

from __future__ import annotations

import select
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa

from busway.gateway.errors import Unavailable
from busway.gateway.store.core.reader import CoreReader
from busway.gateway.store.postgres import connections
from busway.gateway.store.postgres.snapshot import PostgresSnapshot

PATIENCE = 30.0  # seconds for one statement
_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"


class _Snapshots:
    """Implements `Snapshots`."""

    def __init__(self, url: str, threads: int) -> None:
        self._engine = connections.engine(
            url,
            "reader",
            patience=PATIENCE,
            settings=("SET default_transaction_read_only TO on",),
            reads=True,
            pool_size=threads,
            max_overflow=0,
            pool_reset_on_return="rollback",
        )

    @contextmanager
    def open(self, *, steady: bool = True) -> Iterator[PostgresSnapshot]:
        """Begin a transaction that reads. If not `steady`, each statement is one, which saves round trips.

        Raises:
            Unavailable: the database cannot be read.
        """
        try:
            with self._begin() if steady else self._connect() as connection, _discarding(connection):
                yield PostgresSnapshot(connection)
                if steady:
                    connection.exec_driver_sql("COMMIT")
        except connections.ERRORS as problem:
            raise Unavailable(
                f"cannot read the database, try again later: {connections.cause(problem)}"
            ) from problem

    def _connect(self) -> sa.Connection:
        """Return a connection. Those that the server closed meanwhile are replaced."""
        while True:
            connection = self._engine.connect()
            if _is_open(connection):
                return connection
            connection.invalidate()
            connection.close()

    def _begin(self) -> sa.Connection:
        """Return a connection in a transaction. One that the server closed meanwhile is replaced."""
        try:
            return self._begun()
        except connections.ERRORS:
            return self._begun()

    def _begun(self) -> sa.Connection:
        connection = self._engine.connect()
        try:
            with _discarding(connection):
                connection.exec_driver_sql(_BEGIN)
        except BaseException:
            connection.close()  # else the pool lacks it for as long as somebody keeps the error
            raise
        return connection

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


@contextmanager
def _discarding(connection: sa.Connection) -> Iterator[None]:
    """Use a connection never again after an error.

    A connection pool that was switched to sharing sessions gives it another one, without its prepared
    statements. Each later read would fail, also when the pool keeps sessions again.
    """
    try:
        yield
    except connections.ERRORS:
        connection.invalidate()
        raise


def _is_open(connection: sa.Connection) -> bool:
    """Return whether the server has not closed the connection: it says nothing else without being asked."""
    driver: Any = connection.connection.driver_connection
    if driver.closed:
        return False
    poll = select.poll()
    poll.register(driver.fileno(), select.POLLIN)
    return not poll.poll(0)


class PostgresReader(CoreReader):
    """Reads from PostgreSQL.

    Args:
        url: the database, migrated.
        threads: how many reads run at the same time.
    """

    def __init__(self, url: str, threads: int = 3) -> None:
        super().__init__(_Snapshots(url, threads), threads)
