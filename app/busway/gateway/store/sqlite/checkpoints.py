"""When the write-ahead log goes back into the database file: by size, and while nobody writes.

Only the committer does this. A log that was taken over whole is written again from its start, so
its file does not shrink; it grew past its last size when a whole new round was written.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

import sqlalchemy as sa

FIRST = 16 << 20
STEP = 2 << 20
TRUNCATE_OVER = 128 << 20
IDLE_AFTER = 1.0  # seconds without a batch
IDLE_BATCHES = 64  # fewer are not worth two syncs
_PATIENCE = 250  # milliseconds that TRUNCATE waits for readers to finish


class Checkpoints:
    """Decides after each batch, and in each pause, whether to checkpoint.

    Args:
        connection: the committer's, outside of any transaction.
        path: the database file.
        busy: milliseconds that the connection waits for locks otherwise.
    """

    def __init__(self, connection: sa.Connection, path: Path, busy: int) -> None:
        self._connection, self._log, self._busy = connection, path.with_name(path.name + "-wal"), busy
        self._limit = FIRST
        self._batches = 0

    @property
    def pause(self) -> float | None:
        """Seconds after which a pause is worth a checkpoint, None if it never is."""
        return IDLE_AFTER if self._batches >= IDLE_BATCHES else None

    def written(self) -> None:
        """Note that a batch was written; checkpoint if the log has grown enough."""
        self._batches += 1
        size = self._size()
        if size <= self._limit:
            return
        self._run("TRUNCATE" if size > TRUNCATE_OVER else "PASSIVE")
        self._limit = max(FIRST, self._size() + STEP)

    def idle(self) -> None:
        """Use a pause."""
        self._run("PASSIVE")

    def truncate(self) -> None:
        """Give the log's room back to the disk, if readers let go of it in time."""
        self._run("TRUNCATE")
        self._limit = max(FIRST, self._size() + STEP)

    def _run(self, mode: str) -> None:
        self._batches = 0
        try:
            self._connection.exec_driver_sql(f"PRAGMA busy_timeout={_PATIENCE}")
            self._connection.exec_driver_sql(f"PRAGMA wal_checkpoint({mode})")
        except (sa.exc.DBAPIError, sqlite3.Error):
            pass  # it costs nothing that was committed; the next one tries again
        finally:
            self._connection.exec_driver_sql(f"PRAGMA busy_timeout={self._busy}")

    def _size(self) -> int:
        try:
            return self._log.stat().st_size
        except FileNotFoundError:
            return 0
