"""SQLite: connections and their pragmas, the lock file, migrations, and writes beside a gateway.

Only the committer checkpoints: every other connection has that switched off.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from contextlib import AbstractContextManager
from importlib import resources
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from busway.gateway.errors import BadSettings, Conflict, Unavailable
from busway.gateway.store.port.operations import Operation
from busway.gateway.store.port.reader import KeyRecord
from busway.gateway.store.sqlite.handlers_keys import select_keys
from busway.gateway.store.sqlite.schema import APPLICATION_ID
from busway.gateway.store.sqlite.writer import Refused, Writer

REVISION = "0004"
"""The newest migration, so that a database which is up to date needs no Alembic to say so."""

_itself: Any = {}.get  # of None

# The driver asks each value that is no number or text for an adapter, with two exceptions inside, which costs
# as much as nine numbers. These adapters give the value itself.
sqlite3.register_adapter(type(None), _itself)
sqlite3.register_adapter(bytes, bytes)
sqlite3.register_adapter(bool, int)

_BUSY = 30.0  # seconds to wait for another connection's transaction


def engine(path: Path, *pragmas: str, **options: Any) -> sa.Engine:
    """Make an engine in autocommit mode: who writes says BEGIN IMMEDIATE and COMMIT.

    Args:
        path: the database file.
        pragmas: as they stand behind `PRAGMA`, run on each new connection after those that all share.
        options: for `sqlalchemy.create_engine`.
    """
    made = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        isolation_level="AUTOCOMMIT",
        connect_args={"timeout": _BUSY, "check_same_thread": False},
        **options,
    )

    @sa.event.listens_for(made, "connect")
    def _set_up(connection: sqlite3.Connection, _record: object) -> None:
        for pragma in ("wal_autocheckpoint=0", "synchronous=FULL", *pragmas):
            connection.execute(f"PRAGMA {pragma}")

    return made


def cause(problem: BaseException) -> str:
    """Say in the driver's words what went wrong."""
    return str(getattr(problem, "orig", None) or problem)


class Lock:
    """The hold on a database file that keeps a second gateway out, until `release` or the process ends."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def release(self) -> None:
        """Let another gateway have the file."""
        os.close(self._descriptor)


def lock(path: Path) -> Lock:
    """Take the lock file beside the database.

    Raises:
        BadSettings: another gateway has it, or it cannot be written.
    """
    path = path.resolve()
    name = path.with_name(path.name + ".lock")
    try:
        descriptor = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as problem:
        raise BadSettings(f"the lock file {str(name)!r} cannot be written: {problem.strerror}") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        owner = os.read(descriptor, 20).decode(errors="replace").strip()
        os.close(descriptor)
        raise BadSettings(
            f"another gateway (process {owner or 'unknown'}) has the database {str(path)!r} open: "
            "stop it, or name another file with --database-url"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return Lock(descriptor)


def migrate(path: Path) -> None:
    """Bring the database to the newest schema; make it if it is not there.

    Raises:
        BadSettings: the file is no Busway database, its schema is newer, or it cannot be written.
    """
    try:
        revision = _revision(path)
        if revision != REVISION:
            _upgrade(path, revision)
    except (sa.exc.DatabaseError, sqlite3.Error) as problem:
        raise BadSettings(f"the database {str(path)!r} cannot be used: {cause(problem)}") from None


def apply(path: Path, operation: Operation) -> Any:
    """Write one operation, beside a gateway or without one, and return its reply. A new file is migrated.

    Raises:
        BadSettings: as from `migrate`.
        Conflict: an integrity rule refused it.
        Unavailable: the database does not take it now.
    """
    migrate(path)
    made = engine(path)
    try:
        with made.connect() as connection:
            reply = Writer(connection).write([operation])[1][0]
    except (sa.exc.DBAPIError, sqlite3.Error) as problem:
        raise Unavailable(f"the database {str(path)!r} did not take it: {cause(problem)}") from None
    finally:
        made.dispose()
    if isinstance(reply, Refused):
        raise Conflict(reply.why)
    return reply


def read_keys(path: Path) -> list[KeyRecord]:
    """Return all keys, revoked ones too; none if there is no database yet.

    Raises:
        BadSettings: as from `migrate`.
    """
    if not path.exists():
        return []
    migrate(path)
    made = engine(path, "query_only=ON")
    try:
        with made.connect() as connection:
            return select_keys(connection)
    finally:
        made.dispose()


def _revision(path: Path) -> str | None:
    """Return the schema's revision, None of a new file, without changing anything.

    Raises:
        BadSettings: another program's file, or of a later version of Busway.
        sqlite3.Error: it is no database.
    """
    if not path.exists() or path.stat().st_size == 0:
        return None
    connection = sqlite3.connect(path, timeout=_BUSY)
    try:
        if _is_empty(connection):
            return None
        if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise BadSettings(
                f"{str(path)!r} is the database of another program: name another file with --database-url"
            )
        revision = str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])
    finally:
        connection.close()
    if revision > REVISION:
        raise BadSettings(
            f"the database {str(path)!r} was made by a newer Busway (schema {revision}, not {REVISION}): "
            "upgrade Busway, or name another file with --database-url"
        )
    return revision


def _is_empty(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None


def migrations() -> AbstractContextManager[Path]:
    """Return the folder of the migrations, which the package carries as `busway.migrations`."""
    return resources.as_file(resources.files("busway.migrations"))


def _upgrade(path: Path, revision: str | None) -> None:
    from alembic import command  # noqa: PLC0415 - half a second that an up to date database need not wait
    from alembic.config import Config  # noqa: PLC0415 - as above

    made = engine(path, "journal_mode=WAL")
    try:
        with migrations() as folder, made.connect() as connection:
            config = Config()
            config.set_main_option("script_location", str(folder).replace("%", "%%"))
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            if _current(connection) == revision:
                config.attributes["connection"] = connection
                command.upgrade(config, "head")
            connection.exec_driver_sql("COMMIT")
    finally:
        made.dispose()


def _current(connection: sa.Connection) -> str | None:
    """Return the revision inside the transaction: another process may have migrated meanwhile."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return str(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one())
