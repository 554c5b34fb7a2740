"""Checkpoints of the write-ahead log: after it grew by a certain size, and in pauses.

Only the committer checkpoints. After a complete checkpoint SQLite overwrites the log from its start, so its
file does not shrink. It grows again only when a whole new log was written.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa

from busway.gateway.store.sqlite.files import DatabaseFiles

FIRST = 16 << 20
STEP = 2 << 20
TRUNCATE_OVER = 128 << 20
RETRY_AFTER = 1.0  # seconds after a checkpoint that was not complete
BLOCKED_AFTER = 2.0  # seconds; reads of the gateway are shorter
IDLE_BATCHES = 64  # for fewer a checkpoint is not worth its two syncs
_PATIENCE = 250  # milliseconds to wait for readers


class Checkpoints:
    """Decides after each batch, and in each pause, whether to checkpoint.

    A connection that reads for long, such as a foreign program's, keeps the log from being emptied. Then a
    checkpoint is tried once a second, in pauses too, until it is complete.

    Args:
        connection: the committer's connection, outside of a transaction.
        path: the database file.
        busy: normal lock timeout of the connection, in milliseconds.
        timer: seconds of a monotonic clock.
        files: the open files. There is no checkpoint into a database that another program has overwritten.

    Attributes:
        blocked: a reader has kept the log from being emptied for longer than reads of the gateway take.
        failed: a checkpoint failed other than for readers. The connection must not sync again: a second sync
            may succeed although the disk does not have what the first one was to write.
    """

    def __init__(
        self,
        connection: sa.Connection,
        path: Path,
        busy: int,
        timer: Callable[[], float] = time.monotonic,
        files: DatabaseFiles | None = None,
    ) -> None:
        self._connection, self._log, self._busy = connection, path.with_name(path.name + "-wal"), busy
        self._timer, self._files = timer, files
        self._limit = FIRST
        self._batches = 0
        self._unfinished = False
        self._again = 0.0
        self._behind_since: float | None = None
        self.blocked = self.failed = False

    @property
    def due(self) -> bool:
        """Whether to checkpoint in a pause."""
        return self._batches >= IDLE_BATCHES or self._unfinished

    def written(self) -> None:
        """Count a written batch. Checkpoint if the log grew enough, or the last one was not complete."""
        self._batches += 1
        if self._unfinished:
            if self._timer() >= self._again:
                self._checkpoint()
        elif self._size() > self._limit:
            self._checkpoint()

    def idle(self) -> None:
        """Checkpoint in a pause."""
        self._checkpoint()

    def truncate(self) -> None:
        """Checkpoint and truncate the log file, if no reader uses it."""
        self._run("PASSIVE")  # the log is kept until it was compared with what the database has now
        self._run("TRUNCATE")
        self._limit = max(FIRST, self._size() + STEP)

    def _checkpoint(self) -> None:
        self._run("PASSIVE")
        if self._behind_since is None and self._size() > TRUNCATE_OVER:
            self._run("TRUNCATE")
        size = self._size()
        self._unfinished = self._behind_since is not None or size > TRUNCATE_OVER
        self._again = self._timer() + RETRY_AFTER
        self._limit = max(FIRST, size + STEP)

    def _run(self, mode: str) -> None:
        self._batches = 0
        if self.failed or (self._files is not None and self._files.overwritten):
            return
        pages = written = -1
        try:
            self._connection.exec_driver_sql(f"PRAGMA busy_timeout={_PATIENCE}")
            _, pages, written = self._connection.exec_driver_sql(f"PRAGMA wal_checkpoint({mode})").one()
            self._note(complete=written == pages)
        except (sa.exc.DBAPIError, sqlite3.Error) as problem:
            # No commit is lost: what is not in the database yet is in the log, and synced there.
            code = getattr(getattr(problem, "orig", problem), "sqlite_errorcode", sqlite3.SQLITE_BUSY)
            self.failed = code & 0xFF not in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
        finally:
            self._connection.exec_driver_sql(f"PRAGMA busy_timeout={self._busy}")
            if self._files is not None and not self.failed:
                self._files.checkpointed(pages, written)

    def _note(self, *, complete: bool) -> None:
        now = self._timer()
        if complete:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = now
        self.blocked = self._behind_since is not None and now - self._behind_since >= BLOCKED_AFTER

    def _size(self) -> int:
        try:
            return self._log.stat().st_size
        except OSError:  # it was removed, or its folder may not be searched
            return 0
