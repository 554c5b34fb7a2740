"""The port for a database as a whole: what `serve` and the commands need of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, BinaryIO, Protocol

import msgspec

from busway.gateway.store.port.cell import CellState
from busway.gateway.store.port.operations import Operation
from busway.gateway.store.port.reader import KeyRecord, Reader

_POSTGRES = ("postgresql://", "postgres://")


def is_postgres(url: str) -> bool:
    """Return whether the URL of a database names one of PostgreSQL. All others are `sqlite:///FILE`."""
    return url.startswith(_POSTGRES)


def sqlite_path(url: str) -> str:
    """Return the path in the URL of an SQLite database. A text that is no such URL stays as it is."""
    return url.removeprefix("sqlite:///")


class Lock(Protocol):
    """Keeps another gateway from using the database."""

    def release(self) -> None:
        """Let others use it."""


class DatabaseReader(Reader, Protocol):
    """A reader with connections of its own."""

    async def open(self) -> None:
        """Open all connections now.

        Raises:
            Unavailable: the database cannot be read.
        """

    def close(self) -> None:
        """Wait for running reads to end, then close the connections."""


class Sizes(msgspec.Struct):
    """Disk use in bytes: all of the database, its write-ahead log, and what is free, None if unknown."""

    total: int
    log: int
    free: int | None


class Health(msgspec.Struct):
    """What `busway doctor` reports about a database.

    Attributes:
        revision: of its schema, None if it does not exist yet.
        user: who uses it: a process, or how many nodes. Empty if nobody does, or if that is not known.
        unsafe: settings of the server by which acknowledged events can be lost, with their values.
        trip: seconds until the server answers, the median of several. 0 without a server.
        clock: the time of the server in seconds since 1970. 0 without a server.
    """

    revision: str | None
    user: str = ""
    unsafe: dict[str, str] = {}
    trip: float = 0
    clock: float = 0


class Database(Protocol):
    """A database that a URL names. Nothing is opened before it is needed.

    Attributes:
        url: for the committer. It may contain a password.
        shown: for messages, without a password.
        revision: the newest schema that this release knows.
    """

    url: str
    shown: str
    revision: str

    def exists(self) -> bool:
        """Return whether there is a database of Busway.

        Raises:
            BadSettings: it cannot be used.
        """

    def health(self) -> Health:
        """Look at the database without changing anything.

        Raises:
            BadSettings: it cannot be used, or belongs to another program or a newer Busway.
        """

    def migrate(self, *, upgrade: bool = False) -> None:
        """Create the database, or upgrade its schema.

        A database that several nodes may use is only upgraded with `upgrade`.

        Raises:
            BadSettings: it belongs to another program or a newer Busway, or cannot be written. Or it must be
                upgraded first, or cannot be upgraded while nodes use it.
        """

    def lock(self) -> Lock:
        """Keep other gateways from using the database.

        Raises:
            BadSettings: another gateway uses it, or it cannot be locked.
        """

    def reader(self) -> DatabaseReader:
        """Return a reader. Call its `open`."""

    def apply(self, operation: Operation) -> Any:
        """Write one operation and return its reply, even while a gateway runs. Migrates the database first.

        Raises:
            BadSettings: as from `migrate`.
            Conflict: an integrity rule refused the operation.
            Unavailable: the database failed.
        """

    def read_keys(self) -> list[KeyRecord]:
        """Return all API keys, including revoked ones. Empty if there is no database yet.

        Raises:
            BadSettings: as from `migrate`.
        """

    def nodes(self) -> CellState:
        """Return the nodes that use the database, and which of them leads.

        Raises:
            BadSettings: the database does not know, because only one gateway can use it.
        """

    def export(self) -> Iterator[tuple[bytes, int, int]]:
        """Yield the lines of an export, each with the number of rows so far, and of all, at most.

        It is as of one moment.

        Raises:
            BadSettings: there is no database, or it cannot be used.
            Unavailable: the database failed.
        """

    def load(self, file: BinaryIO) -> Iterator[int]:
        """Write an export into an empty database. Yield how many bytes of the file are done, again and again.

        If an import of this file was interrupted, it continues. Until it has ended, `migrate` refuses the
        database.

        Raises:
            BadSettings: the database is not empty, or in use; or the file is not a whole export.
            Unavailable: the database failed.
        """

    def check(self, file: BinaryIO) -> Iterator[int]:
        """Read an export as `load` does, and change nothing. Yield and raise the same."""

    def sizes(self) -> Sizes:
        """Return the disk use now."""
