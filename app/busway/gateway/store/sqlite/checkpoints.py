"""Checkpoints of the write-ahead log: after it grew by a certain size, and in pauses.

Only the committer checkpoints. Under load it does so in the background, on a connection of its own, while
batches are written. What they add meanwhile keeps the log growing. When it is long, a checkpoint between two
batches writes the rest, so that SQLite begins the log again. Its file does not shrink.

Up to version 3.51.2, SQLite may lose commits if the log begins again while a checkpoint of another connection
starts (https://sqlite.org/wal.html#walresetbug). So a third connection reads while one runs in the
background: the log does not begin again before that one has ended.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path

import sqlalchemy as sa

from busway.gateway.store.sqlite.files import DatabaseFiles

BEGIN_OVER = 512  # pages of the log that the database lacks
COMPLETE_OVER = 4096  # pages of the log
TRUNCATE_OVER = 128 << 20
PASSES = 16  # in the background; then the rest is written between two batches, however much it is
START_WITHIN = 0.005  # seconds; a batch does not wait longer for one to begin
RETRY_AFTER = 0.1  # seconds after a checkpoint that was not complete
BLOCKED_AFTER = 2.0  # seconds; reads of the gateway are shorter
IDLE_BATCHES = 64  # for fewer a checkpoint is not worth its two syncs
_PATIENCE = 250  # milliseconds to wait for readers


class Checkpoints:
    """Decides after each batch, and in each pause, whether to checkpoint.

    A connection that reads keeps the log from being emptied, for long if it is a foreign program's. Then a
    checkpoint is tried several times a second, and in pauses too, until it is complete.

    Args:
        connection: the committer's connection, outside of a transaction.
        background: another connection to the same file, which only checkpoints.
        snapshot: another one, which reads meanwhile.
        path: the database file.
        busy: normal lock timeout of the connection, in milliseconds.
        files: the open files. There is no checkpoint into a database that another program has overwritten.
        timer: seconds of a monotonic clock.

    Attributes:
        blocked: a reader has kept the log from being emptied for longer than reads of the gateway take.
        failed: a checkpoint failed other than for readers. The connections must not sync again: a second sync
            may succeed although the disk does not have what the first one was to write.
    """

    def __init__(
        self,
        connection: sa.Connection,
        background: sa.Connection,
        snapshot: sa.Connection,
        path: Path,
        busy: int,
        files: DatabaseFiles,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._connection, self._background, self._snapshot = connection, background, snapshot
        self._log, self._busy = path.with_name(path.name + "-wal"), busy
        self._timer, self._files = timer, files
        self._running: Future[tuple[int, int]] | None = None
        self._batches = self._frames = 0
        self._passes = 0  # complete ones in the background since one between two batches
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
        ended = False
        if self._running is not None:
            if not self._running.done():
                return
            self.finish()
            ended = True
        lacking = self._files.lacking
        if self._unfinished and self._timer() < self._again:
            return
        if lacking > BEGIN_OVER and self._passes < PASSES:
            self._begin()
        elif self._unfinished or lacking > BEGIN_OVER or (ended and self._files.log.frames > COMPLETE_OVER):
            self._checkpoint()

    def idle(self) -> None:
        """Checkpoint in a pause."""
        self._checkpoint()

    def truncate(self) -> None:
        """Checkpoint and truncate the log file, if no reader uses it."""
        self._run("PASSIVE")  # the log is kept until it was compared with what the database has now
        self._run("TRUNCATE")

    def finish(self) -> None:
        """Wait for the checkpoint in the background. Until then the content of the database is not known."""
        running, self._running = self._running, None
        if running is not None:
            self._take(running.result, self._frames)
            self._let_go()
            self._passes = 0 if self._unfinished else self._passes + 1

    def close(self) -> None:
        """Wait for the checkpoint in the background, and close its connections."""
        self.finish()
        self._background.close()
        self._snapshot.close()

    def _begin(self) -> None:
        if self.failed or self._files.overwritten:
            return
        running: Future[tuple[int, int]] = Future()
        thread = threading.Thread(target=_run_for, args=(running, self._background), daemon=True)
        try:
            if not self._keep_log():
                return
            thread.start()
        except (RuntimeError, sa.exc.DBAPIError):  # such as too many processes and threads
            self._let_go()
            self._checkpoint()
        else:
            self._running = running
            self._wait_for_start(running)

    def _wait_for_start(self, running: Future[tuple[int, int]]) -> None:
        """Wait until the checkpoint knows what is in the log.

        It leaves out the pages that are in later batches too. Without those that each batch has, a copy over
        the database is harder to notice.
        """
        deadline = time.monotonic() + START_WITHIN
        while self._files.log.begun < self._frames and not running.done() and time.monotonic() < deadline:
            time.sleep(START_WITHIN / 50)

    def _keep_log(self) -> bool:
        """Let the log not begin again. Return False if another program has just written all of it.

        Raises:
            sqlalchemy.exc.DBAPIError: nothing can be read.
        """
        before = self._files.log
        self._snapshot.exec_driver_sql("BEGIN")
        self._snapshot.exec_driver_sql("SELECT 1 FROM head").first()
        log = self._files.log
        if not log.lacking or log.salt != before.salt:
            self._let_go()
            return False
        self._frames = log.frames
        return True

    def _let_go(self) -> None:
        with contextlib.suppress(sa.exc.DBAPIError):  # after some errors there is no transaction any more
            self._snapshot.exec_driver_sql("ROLLBACK")

    def _checkpoint(self) -> None:
        self._run("PASSIVE")
        self._passes = 0
        if self._behind_since is None and self._size() > TRUNCATE_OVER:
            self._run("TRUNCATE")
        self._unfinished = self._unfinished or self._size() > TRUNCATE_OVER

    def _run(self, mode: str) -> None:
        self.finish()
        if self.failed or self._files.overwritten:
            return
        try:
            self._connection.exec_driver_sql(f"PRAGMA busy_timeout={_PATIENCE}")
            self._take(lambda: _execute(self._connection, mode))
        finally:
            self._connection.exec_driver_sql(f"PRAGMA busy_timeout={self._busy}")

    def _take(self, result: Callable[[], tuple[int, int]], wanted: int | None = None) -> None:
        """Note how a checkpoint ended.

        Args:
            result: returns the pages in the log, and those in the database.
            wanted: how many it was to write, None for all.
        """
        self._batches = 0
        pages = written = -1
        try:
            pages, written = result()
            # Both are -1 while another program checkpoints.
            self._note(complete=written >= max(0, pages if wanted is None else wanted))
        except (sa.exc.DBAPIError, sqlite3.Error) as problem:
            # No commit is lost: what is not in the database yet is in the log, and synced there.
            code = getattr(getattr(problem, "orig", problem), "sqlite_errorcode", sqlite3.SQLITE_BUSY)
            self.failed = code & 0xFF not in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}
        if not self.failed:
            self._files.checkpointed(pages, written)

    def _note(self, *, complete: bool) -> None:
        now = self._timer()
        if complete:
            self._behind_since = None
        elif self._behind_since is None:
            self._behind_since = now
        self._unfinished, self._again = not complete, now + RETRY_AFTER
        self.blocked = self._behind_since is not None and now - self._behind_since >= BLOCKED_AFTER

    def _size(self) -> int:
        try:
            return self._log.stat().st_size
        except OSError:  # it was removed, or its folder may not be searched
            return 0


def _run_for(running: Future[tuple[int, int]], connection: sa.Connection) -> None:
    try:
        running.set_result(_execute(connection, "PASSIVE"))
    except BaseException as problem:
        running.set_exception(problem)


def _execute(connection: sa.Connection, mode: str) -> tuple[int, int]:
    _, pages, written = connection.exec_driver_sql(f"PRAGMA wal_checkpoint({mode})").one()
    return pages, written
