"""Checkpoints of the write-ahead log: after it grew by a certain size, and in pauses.

Only the committer checkpoints. After a complete checkpoint SQLite overwrites the log from its start, so its
file does not shrink. It grows again only when a whole new log was written.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

import sqlalchemy as sa

FIRST = 16 << 20
STEP = 2 << 20
TRUNCATE_OVER = 128 << 20
IDLE_AFTER = 1.0  # seconds without a batch
IDLE_BATCHES = 64  # for fewer a checkpoint is not worth its two syncs
_PATIENCE = 250  # milliseconds to wait for readers


class Checkpoints:
    """Decides after each batch, and in each pause, whether to checkpoint.

    Args:
        connection: the committer's connection, outside of a transaction.
        path: the database file.
        busy: normal lock timeout of the connection, in milliseconds.
    """

    def __init__(self, connection: sa.Connection, path: Path, busy: int) -> None:
        self._connection, self._log, self._busy = connection, path.with_name(path.name + "-wal"), busy
        self._limit = FIRST
        self._batches = 0

    @property
    def due(self) -> bool:
        """Whether to checkpoint in a pause."""
        return self._batches >= IDLE_BATCHES

    def written(self) -> None:
        """Count a written batch. Checkpoint if the log grew enough."""
        self._batches += 1
        size = self._size()
        if size <= self._limit:
            return
        self._run("TRUNCATE" if size > TRUNCATE_OVER else "PASSIVE")
        self._limit = max(FIRST, self._size() + STEP)

    def idle(self) -> None:
        """Checkpoint in a pause."""
        self._run("PASSIVE")

    def truncate(self) -> None:
        """Checkpoint and truncate the log file, if no reader uses it."""
        self._run("TRUNCATE")
        self._limit = max(FIRST, self._size() + STEP)

    def _run(self, mode: str) -> None:
        self._batches = 0
        try:
            self._connection.exec_driver_sql(f"PRAGMA busy_timeout={_PATIENCE}")
            self._connection.exec_driver_sql(f"PRAGMA wal_checkpoint({mode})")
        except (sa.exc.DBAPIError, sqlite3.Error):
            pass  # no commit is lost, and the next checkpoint tries again
        finally:
            self._connection.exec_driver_sql(f"PRAGMA busy_timeout={self._busy}")

    def _size(self) -> int:
        try:
            return self._log.stat().st_size
        except FileNotFoundError:
            return 0
