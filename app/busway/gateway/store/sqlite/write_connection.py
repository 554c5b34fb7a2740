"""The write connection of SQLite.

While a file of the database is not where it was, or was overwritten, nothing is written. The files stay
open, so that writing can go on when they are back, and so that what was written is in the file, wherever that
is now.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from pathlib import Path

import sqlalchemy as sa

from busway.gateway.errors import BadSettings
from busway.gateway.store.core.transaction import Unusable
from busway.gateway.store.core.writer import Writer
from busway.gateway.store.group.frames import FileId
from busway.gateway.store.sqlite import database as sqlite
from busway.gateway.store.sqlite import permissions
from busway.gateway.store.sqlite.checkpoints import Checkpoints
from busway.gateway.store.sqlite.files import DatabaseFiles
from busway.gateway.store.sqlite.transaction import SQLiteTransaction

CACHE = 128 << 10  # KiB; random ids access the unique index at random, so it must fit in memory
BUSY = 30_000  # milliseconds to wait for a `busway` command that writes at the same time


class SQLiteWriteConnection:
    """Implements `WriteConnection`.

    Args:
        path: the database file, which exists.
        known: its files as another committer had them open, None for the first one.
        node: the name of the node.

    Raises:
        FilesChanged: these are not the same files.
        Unusable: this process may not write them.
        sqlite3.Error, sqlalchemy.exc.DBAPIError: the database cannot be opened.
    """

    commit = 0  # a file loses no commits
    news = b""
    errors: tuple[type[Exception], ...] = (sa.exc.DBAPIError, sqlite3.Error)

    def __init__(self, path: Path, known: list[FileId] | None, node: str) -> None:
        self._path, self._name = path, secrets.randbits(62)
        self._files = DatabaseFiles(path, known)
        self._files.verify()
        pragmas = (f"cache_size=-{CACHE}", f"busy_timeout={BUSY}")
        self._engine = sqlite.engine(path, *pragmas, create=False, poolclass=sa.NullPool)
        self._node: int | None = None
        try:
            self._connect()
            head = self._transaction.claim(node)
        except self.errors:
            _explain(path)
            raise
        self.epoch, self.head, self._node = head.epoch, head.result, head.node
        self._opened()

    @property
    def files(self) -> list[FileId]:
        """The open files of the database."""
        return self._files.known

    @property
    def blocked(self) -> bool:
        """Whether a reader keeps the write-ahead log from being emptied."""
        return self._checkpoints.blocked

    @property
    def due(self) -> bool:
        """Whether `idle` has something to do."""
        return self._checkpoints.due

    def problem(self, *, recent: bool = False) -> str | None:
        """Return which file is not where it was. `recent`: None without a check if the last one is recent."""
        if recent and self._files.checked:
            return None
        self._checkpoints.finish()
        return self._files.problem()

    def cause(self, problem: BaseException) -> str:
        """Return the driver's error message."""
        return sqlite.cause(problem)

    def written(self) -> None:
        """Checkpoint if the log grew enough."""
        self._checkpoints.written()
        if self._checkpoints.failed:  # a call for each batch would cost more
            self._reconnect()

    def idle(self) -> None:
        """Checkpoint in a pause."""
        self._checkpoints.idle()
        self._replace_failed()

    def save(self) -> None:
        """Checkpoint into the database file, wherever it is now: the log may be lost."""
        self._checkpoints.truncate()

    def reopen(self) -> int:
        """Reconnect after an error and return the newest result number.

        It truncates the write-ahead log, because the disk may be full.
        """
        self._reconnect()
        self._checkpoints.truncate()
        self._replace_failed()
        return self.newest()

    def newest(self) -> int:
        """Return the number of the newest result."""
        return self._transaction.bounds().result

    def close(self) -> None:
        """Checkpoint the write-ahead log into the database file and close it."""
        self._checkpoints.finish()
        if self._files.overwritten:
            with contextlib.suppress(OSError):  # the log has said what to do
                self._files.put_aside()
            os._exit(0)
        self._checkpoints.truncate()
        if self._files.problem() is None:
            self._checkpoints.close()
            self._connection.close()
            self._files.closed()
        else:  # SQLite would remove the log by its name, which may be that of another file now
            os._exit(0)

    def _replace_failed(self) -> None:
        """Reconnect if a checkpoint failed: what could not be synced must not be synced again."""
        if self._checkpoints.failed:
            self._reconnect()

    def _reconnect(self) -> None:
        self._transaction.close()
        self._checkpoints.close()
        self._connection.close()
        self._files.closed()
        self._connect()
        self._opened()

    def _opened(self) -> None:
        pages = self._connection.exec_driver_sql("SELECT rootpage FROM sqlite_master WHERE name = 'head'")
        size = self._connection.exec_driver_sql("PRAGMA page_size")
        self._files.opened(int(pages.scalar_one()), int(size.scalar_one()))
        background, snapshot = self._engine.connect(), self._engine.connect()
        for connection in (background, snapshot):
            connection.exec_driver_sql("SELECT 1 FROM head").first()  # it opens its files
        self._files.verify()
        self._checkpoints = Checkpoints(self._connection, background, snapshot, self._path, BUSY, self._files)

    def _connect(self) -> None:
        self._connection = self._engine.connect()
        self._transaction = SQLiteTransaction(self._connection, self._name, self._node)
        self.writer = Writer(self._transaction)


def _explain(path: Path) -> None:
    """Raise Unusable if this process may not use the files: SQLite does not say which one it is."""
    try:
        permissions.check(path)
    except BadSettings as problem:
        raise Unusable(problem.detail) from None
