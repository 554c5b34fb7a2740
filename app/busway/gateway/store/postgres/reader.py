"""PostgreSQL's connections for reads. They cannot write."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa

from busway.gateway.errors import Unavailable
from busway.gateway.store.core.reader import CoreReader
from busway.gateway.store.postgres import connections
from busway.gateway.store.postgres.snapshot import PostgresSnapshot

_BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"


class _Snapshots:
    """Implements `Snapshots`."""

    def __init__(self, url: str, threads: int) -> None:
        self._engine = connections.engine(
            url, "reader", pool_size=threads, max_overflow=0, pool_reset_on_return="rollback"
        )

    @contextmanager
    def open(self) -> Iterator[PostgresSnapshot]:
        """Begin a transaction that reads.

        Raises:
            Unavailable: the database cannot be read.
        """
        try:
            with self._begin() as connection:
                yield PostgresSnapshot(connection)
                connection.exec_driver_sql("COMMIT")
        except connections.ERRORS as problem:
            raise Unavailable(
                f"cannot read the database, try again later: {connections.cause(problem)}"
            ) from problem

    def _begin(self) -> sa.Connection:
        """Return a connection in a transaction. One that the server closed meanwhile is replaced."""
        connection = self._engine.connect()
        try:
            connection.exec_driver_sql(_BEGIN)
        except connections.ERRORS:
            connection.close()
            connection = self._engine.connect()
            connection.exec_driver_sql(_BEGIN)
        return connection

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()


class PostgresReader(CoreReader):
    """Reads from PostgreSQL.

    Args:
        url: the database, migrated.
        threads: how many reads run at the same time.
    """

    def __init__(self, url: str, threads: int = 3) -> None:
        super().__init__(_Snapshots(url, threads), threads)
