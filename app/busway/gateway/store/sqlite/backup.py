"""A consistent copy of a database, made while a gateway serves it.

The copy is as of one moment: a single read transaction covers it, and writers do not wait for it. Until it
ends, the committer cannot empty the write-ahead log, which grows by what is written meanwhile. Without that
transaction, SQLite would start again after each commit, and not finish under load.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from busway.gateway.errors import BadSettings, BuswayError
from busway.gateway.new_file import check_new, new_file
from busway.gateway.store.sqlite import database as sqlite
from busway.gateway.store.sqlite import permissions
from busway.gateway.store.sqlite.schema import APPLICATION_ID

_STEP = 256  # pages between two calls of `progress`
_BUSY = 30.0  # seconds to wait for another connection that recovers or migrates
_BESIDE = ("-wal", "-shm", "-journal")  # SQLite would take these for a part of the copy


def back_up(path: Path, target: Path, progress: Callable[[int, int], None]) -> int:
    """Copy a database to a new file, and return its size in bytes. It has what was committed before.

    The file appears under its name when it is complete and on disk. The schema is copied as it is.

    Args:
        path: the database.
        target: the new file.
        progress: called with the bytes that are copied, and with all bytes.

    Raises:
        BadSettings: there is no Busway database, `target` exists or its folder does not.
        BuswayError: the copy cannot be written or read. Nothing is left of it.
    """
    source = _source(path)
    _check_target(target)
    try:
        with new_file(target, permissions.MODE) as partial:
            _copy(source, partial, progress)
            _mark(partial)
            size = partial.stat().st_size
    except sqlite3.Error as problem:
        raise BuswayError(f"cannot copy {str(path)!r} to {str(target)!r}: {problem}") from None
    except OSError as problem:
        raise BuswayError(f"cannot write the copy {str(target)!r}: {problem.strerror}") from None
    return size


def check(path: Path, target: Path) -> int:
    """Return the size of a database in bytes if `back_up` can copy it to a new file. Changes nothing.

    Raises:
        BadSettings: as from `back_up`.
        BuswayError: the database cannot be read.
    """
    source = _source(path)
    check_new(target)
    _check_target(target)
    try:
        with contextlib.closing(_open(source)) as database:
            database.execute("PRAGMA query_only=ON")
            database.execute("PRAGMA wal_autocheckpoint=0")
            _check_content(source, database)
            pages, size = (
                database.execute(f"PRAGMA page_{name}").fetchone()[0] for name in ("count", "size")
            )
    except sqlite3.Error as problem:
        raise BuswayError(f"cannot read {str(path)!r}: {problem}") from None
    return int(pages) * int(size)


def _source(path: Path) -> Path:
    source = permissions.check(path)
    if not source.exists():
        raise BadSettings(f"there is no database {str(path)!r}: choose one with --database-url")
    return source


def _check_target(target: Path) -> None:
    for end in _BESIDE:
        check_new(target.with_name(target.name + end))


def _copy(source: Path, partial: Path, progress: Callable[[int, int], None]) -> None:
    with contextlib.closing(_open(source)) as database, contextlib.closing(_open(partial)) as copy:
        # Only the committer checkpoints, but the last connection does so when it closes.
        database.execute("PRAGMA wal_autocheckpoint=0")
        database.execute("BEGIN")
        _check_content(source, database)
        # The file has no name yet that anybody opens: it is synced once, at the end.
        copy.execute("PRAGMA journal_mode=OFF")
        copy.execute("PRAGMA synchronous=OFF")
        (page,) = database.execute("PRAGMA page_size").fetchone()
        database.backup(
            copy, pages=_STEP, progress=lambda _, left, all_: progress(page * (all_ - left), page * all_)
        )
        database.execute("COMMIT")


def _mark(copy: Path) -> None:
    """Let the header say that the copy has no write-ahead log.

    The next gateway changes it. Until then a log beside it is known to be that of another database.
    """
    with copy.open("r+b") as file:
        file.seek(sqlite.VERSIONS)
        file.write(sqlite.WITHOUT_LOG)


def _open(file: Path) -> sqlite3.Connection:
    name = f"file:{quote(os.fsencode(file))}?mode=rw"
    return sqlite3.connect(name, uri=True, timeout=_BUSY, isolation_level=None)


def _check_content(source: Path, database: sqlite3.Connection) -> None:
    """Raise BadSettings if it is no Busway database. It begins the read transaction."""
    try:
        known = database.execute("PRAGMA application_id").fetchone()[0]
        empty = database.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None
    except sqlite3.DatabaseError as problem:
        if isinstance(problem, sqlite3.OperationalError):
            raise
        raise BadSettings(f"cannot use the database {str(source)!r}: {problem}") from None
    if empty:
        raise BadSettings(f"the database {str(source)!r} is empty: choose another with --database-url")
    if known != APPLICATION_ID:
        raise BadSettings(f"{str(source)!r} is a database of another program: choose one with --database-url")
