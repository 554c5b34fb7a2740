"""SQLite's connections for reads. They cannot write."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from busway.gateway.errors import Unavailable
from busway.gateway.store.core.reader import CoreReader
from busway.gateway.store.sqlite import database as sqlite
from busway.gateway.store.sqlite import files, lock
from busway.gateway.store.sqlite.snapshot import SQLiteSnapshot


class _Snapshots:
    """Implements `Snapshots`."""

    def __init__(self, path: Path, threads: int) -> None:
        self._path, self._used = path.resolve(), False
        self._engine = sqlite.engine(
            self._path, "query_only=ON", pool_size=threads, max_overflow=0, pool_reset_on_return=None
        )

    @contextmanager
    def open(self, *, steady: bool = True) -> Iterator[SQLiteSnapshot]:  # noqa: ARG002 - it costs nothing
        """Begin a transaction that reads.

        Raises:
            Unavailable: the database cannot be read.
        """
        self._used = True
        try:
            with self._engine.connect() as connection:
                connection.exec_driver_sql("BEGIN")
                try:
                    yield SQLiteSnapshot(connection)
                finally:
                    connection.exec_driver_sql("COMMIT")
        except (sa.exc.DBAPIError, sqlite3.Error) as problem:
            raise Unavailable(
                f"cannot read the database, try again later: {sqlite.cause(problem)}"
            ) from problem

    def close(self) -> None:
        """Close all connections. The last one checkpoints, unless the log was replaced or put aside."""
        if self._used and not files.has_open_log(self._path):
            lock.keep_content(self._path)
        self._engine.dispose()


class SQLiteReader(CoreReader):
    """Reads from SQLite.

    Args:
        path: the database, migrated.
        threads: how many reads run at the same time.
    """

    def __init__(self, path: Path, threads: int = 4) -> None:
        super().__init__(_Snapshots(path, threads), threads)
