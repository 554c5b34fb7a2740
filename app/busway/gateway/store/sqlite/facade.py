"""SQLite as the gateway and the commands see it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from busway.gateway.errors import BadSettings
from busway.gateway.store.core import moving
from busway.gateway.store.port.cell import CellState
from busway.gateway.store.port.database import Health, Sizes
from busway.gateway.store.port.operations import Operation
from busway.gateway.store.port.reader import KeyRecord
from busway.gateway.store.sqlite import database as sqlite
from busway.gateway.store.sqlite.lock import Lock, lock, owner
from busway.gateway.store.sqlite.reader import SQLiteReader
from busway.gateway.store.sqlite.snapshot import SQLiteSnapshot
from busway.gateway.store.sqlite.transaction import SQLiteTransaction


class SQLiteDatabase:
    """Implements `Database`.

    Args:
        path: the file. It may not exist yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.url = sqlite.address(path)
        self.shown = str(path.absolute())
        self.revision = sqlite.REVISION

    def exists(self) -> bool:
        """Return whether there is a database: a file that is not empty."""
        return sqlite.exists(self._path)

    def health(self) -> Health:
        """Look at the database without changing anything."""
        revision = sqlite.revision(self._path)
        return Health(revision, user=owner(self._path))

    def migrate(self, *, upgrade: bool = False) -> None:  # noqa: ARG002 - the port's
        """Create the database, or upgrade its schema: one gateway uses it."""
        sqlite.migrate(self._path)

    def lock(self) -> Lock:
        """Lock the file."""
        return lock(self._path)

    def reader(self) -> SQLiteReader:
        """Return a reader."""
        return SQLiteReader(self._path)

    def apply(self, operation: Operation) -> Any:
        """Write one operation and return its reply, even while a gateway runs."""
        return sqlite.apply(self._path, operation)

    def read_keys(self) -> list[KeyRecord]:
        """Return all API keys, including revoked ones."""
        return sqlite.read_keys(self._path)

    def nodes(self) -> CellState:
        """Refuse: only one gateway can use a file.

        Raises:
            BadSettings: always.
        """
        raise BadSettings(f"one gateway at a time uses a SQLite file: ask it with --url, not {self.shown!r}")

    def export(self) -> Iterator[tuple[bytes, int, int]]:
        """Yield the lines of an export, each with the number of rows so far, and of all, at most."""
        self.migrate()
        with sqlite.opened(self._path, "read", "query_only=ON", create=False) as connection:
            connection.exec_driver_sql("BEGIN")
            yield from moving.lines(SQLiteSnapshot(connection))

    def load(self, file: BinaryIO) -> Iterator[int]:
        """Write an export into an empty database."""
        moving.check_file(file)
        held = self.lock()
        try:
            sqlite.migrate(self._path, importing=True)
            with sqlite.opened(self._path, "write to") as connection:
                yield from moving.load(SQLiteTransaction(connection), file)
        finally:
            held.release()

    def check(self, file: BinaryIO) -> Iterator[int]:
        """Read an export as `load` does, and change nothing."""
        health = self.health()
        if health.user:
            raise BadSettings(
                f"{health.user} uses the database {self.shown!r}: stop it, or choose another file"
            )
        if moving.usable(health.revision, self.revision, self.shown) is None:
            yield from moving.check(None, file)
            return
        with sqlite.opened(self._path, "read", "query_only=ON", create=False) as connection:
            connection.exec_driver_sql("BEGIN")
            yield from moving.check(SQLiteSnapshot(connection), file)

    def sizes(self) -> Sizes:
        """Return the disk use now."""
        log = _size(self._path.with_name(self._path.name + "-wal"))
        return Sizes(_size(self._path) + log, log, _free(self._path.absolute().parent))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _free(folder: Path) -> int | None:
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None
