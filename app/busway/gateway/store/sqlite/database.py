"""SQLite: connections and their pragmas, migrations, and writes by `busway` commands.

Only the committer checkpoints. Automatic checkpoints are off on every connection.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from busway.gateway.errors import BadSettings, Conflict, Unavailable
from busway.gateway.store.core.handlers_keys import find_keys
from busway.gateway.store.core.moving import UNFINISHED, upgrading
from busway.gateway.store.core.writer import Refused, Writer
from busway.gateway.store.port.operations import Operation
from busway.gateway.store.port.reader import KeyRecord
from busway.gateway.store.sqlite import permissions
from busway.gateway.store.sqlite.schema import APPLICATION_ID
from busway.gateway.store.sqlite.snapshot import SQLiteSnapshot, readable
from busway.gateway.store.sqlite.transaction import SQLiteTransaction

REVISION = "0019"
"""The newest migration. An up-to-date database is recognized without loading Alembic."""

VERSIONS = 18
"""Where the header of a file has two bytes that say whether it has a write-ahead log."""

WITHOUT_LOG = b"\x01\x01"

_itself: Any = {}.get  # of None

# For each value that is not a number or text, the driver looks for an adapter and raises two exceptions
# internally. That costs as much as nine numbers. These adapters return the value itself.
sqlite3.register_adapter(type(None), _itself)
sqlite3.register_adapter(bytes, bytes)
sqlite3.register_adapter(bool, int)

_BUSY = 30.0  # seconds to wait for another connection's transaction


def address(path: Path) -> str:
    """Return the URL of a database file, whatever the working directory is."""
    return f"sqlite:///{os.path.realpath(path)}"  # Path.resolve raises for a loop of links up to Python 3.12


def engine(path: Path, *pragmas: str, create: bool = True, **options: Any) -> sa.Engine:
    """Return an engine in autocommit mode. Writers execute BEGIN IMMEDIATE and COMMIT themselves.

    Args:
        path: the database file.
        pragmas: extra pragmas for each new connection, such as `query_only=ON`.
        create: whether a connection creates the file if there is none.
        options: for `sqlalchemy.create_engine`.
    """
    url = sa.URL.create("sqlite", database=str(path))
    if not create:
        name = f"file:{quote(os.fsencode(path))}"
        url = sa.URL.create("sqlite", database=name, query={"mode": "rw", "uri": "true"})
    made = sa.create_engine(
        url,
        isolation_level="AUTOCOMMIT",
        connect_args={"timeout": _BUSY, "check_same_thread": False},
        **options,
    )

    @sa.event.listens_for(made, "connect")
    def _set_up(connection: sqlite3.Connection, _record: object) -> None:
        for pragma in ("wal_autocheckpoint=0", "synchronous=FULL", *pragmas):
            connection.execute(f"PRAGMA {pragma}")
        if "query_only=ON" in pragmas:
            connection.text_factory = readable

    return made


def cause(problem: BaseException) -> str:
    """Return the driver's error message."""
    return str(getattr(problem, "orig", None) or problem)


def migrate(path: Path, *, importing: bool = False) -> None:
    """Upgrade the database to the newest schema. Create it if the file does not exist.

    Args:
        path: the file.
        importing: a database with an unfinished import is accepted.

    Raises:
        BadSettings: the file is not a Busway database, has a newer schema, or cannot be written.
    """
    real = permissions.check(path)
    try:
        permissions.create(real)
        revision, has_log, unfinished = _revision(path)
        if unfinished and not importing:
            raise BadSettings(f"cannot use the database {str(path)!r}: {UNFINISHED}")
        if revision != REVISION or not has_log:
            _upgrade(path, revision)
    except (sa.exc.DatabaseError, sqlite3.Error) as problem:
        why = "the disk is full" if permissions.is_full(real.parent) else cause(problem)
        raise BadSettings(f"cannot use the database {str(path)!r}: {why}") from None
    except OSError as problem:
        raise BadSettings(f"cannot use the database {str(path)!r}: {problem.strerror}") from None


def revision(path: Path) -> str | None:
    """Return the revision of the schema, None if there is no database. Changes nothing.

    Raises:
        BadSettings: the file is not a Busway database, or has a newer schema.
    """
    permissions.check(path)
    try:
        return _revision(path)[0]
    except (sqlite3.Error, OSError) as problem:
        raise BadSettings(f"cannot use the database {str(path)!r}: {cause(problem)}") from None


@contextmanager
def failing(path: Path, what: str) -> Iterator[None]:
    """Raise `Unavailable` for errors of the database. `what`: what cannot be done, such as `write to`."""
    try:
        yield
    except (sa.exc.DBAPIError, sqlite3.Error) as problem:
        raise Unavailable(f"cannot {what} the database {str(path)!r}, try again: {cause(problem)}") from None


@contextmanager
def opened(path: Path, what: str, *pragmas: str, create: bool = True) -> Iterator[sa.Connection]:
    """Connect for this block alone, as `engine` and `failing` say. Nothing stays open when it raises."""
    made = engine(path, *pragmas, create=create)
    try:
        with failing(path, what), made.connect() as connection:
            yield connection
    finally:
        made.dispose()


def apply(path: Path, operation: Operation) -> Any:
    """Write one operation and return its reply, even while a gateway runs. Migrates the database first.

    Raises:
        BadSettings: as from `migrate`.
        Conflict: an integrity rule refused the operation.
        Unavailable: the database failed.
    """
    migrate(path)
    with opened(path, "write to") as connection:
        reply = Writer(SQLiteTransaction(connection)).write([operation])[1][0]
    if isinstance(reply, Refused):
        raise Conflict(reply.why)
    return reply


def exists(path: Path) -> bool:
    """Return whether there is a database: a file that is not empty.

    Raises:
        BadSettings: as from `migrate`.
    """
    try:
        return permissions.check(path).stat().st_size > 0
    except FileNotFoundError:
        return False


def read_keys(path: Path) -> list[KeyRecord]:
    """Return all API keys, including revoked ones. Empty if there is no database yet.

    Raises:
        BadSettings: as from `migrate`.
    """
    if not permissions.check(path).exists():
        return []
    migrate(path)
    made = engine(path, "query_only=ON")
    try:
        with made.connect() as connection:
            return find_keys(SQLiteSnapshot(connection))
    finally:
        made.dispose()


def _revision(path: Path) -> tuple[str | None, bool, bool]:
    """Return the revision of the schema, None for a new file, and whether it has a write-ahead log.

    And whether it has an unfinished import.

    A copy that was made with `VACUUM INTO` has none. Changes nothing.

    Raises:
        BadSettings: the file belongs to another program or to a newer Busway, or the log to another file.
        sqlite3.Error: the file is not a database.
        OSError: it cannot be read.
    """
    if not path.exists() or path.stat().st_size == 0:
        return None, False, False
    _check_log(path.resolve())
    connection = sqlite3.connect(path, timeout=_BUSY)
    try:
        if _is_empty(connection):
            return None, False, False
        if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
            raise BadSettings(
                f"{str(path)!r} is a database of another program: choose another file with --database-url"
            )
        revision = str(connection.execute("SELECT version_num FROM alembic_version").fetchone()[0])
        mode = connection.execute("PRAGMA journal_mode").fetchone()[0]
        imports = "SELECT EXISTS (SELECT * FROM imports)"
        unfinished = revision == REVISION and bool(connection.execute(imports).fetchone()[0])
    finally:
        connection.close()
    if revision > REVISION:
        raise BadSettings(
            f"the database {str(path)!r} belongs to a newer Busway (schema {revision}, not {REVISION}): "
            "upgrade Busway, or choose another file with --database-url"
        )
    return revision, mode == "wal", unfinished


def _check_log(path: Path) -> None:
    """Raise BadSettings if SQLite would take the log of another database for that of this one."""
    log = path.with_name(f"{path.name}-wal")
    with path.open("rb") as file:
        file.seek(VERSIONS)
        versions = file.read(len(WITHOUT_LOG))
    if versions == WITHOUT_LOG and log.exists() and log.stat().st_size > 0:
        raise BadSettings(
            f"the write-ahead log {str(log)!r} belongs to another database, which was in the place of "
            f"{str(path)!r}: remove it to continue with {path.name!r}, or put the old file back"
        )


def _is_empty(connection: sqlite3.Connection) -> bool:
    return connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone() is None


def migrations() -> AbstractContextManager[Path]:
    """Return the folder of the migrations, the package `busway.migrations.sqlite`."""
    return resources.as_file(resources.files("busway.migrations.sqlite"))


def _upgrade(path: Path, revision: str | None) -> None:
    from alembic import command  # noqa: PLC0415 - the import takes half a second
    from alembic.config import Config  # noqa: PLC0415 - as above

    made = engine(path, "journal_mode=WAL")
    try:
        with migrations() as folder, made.connect() as connection:
            config = Config()
            config.set_main_option("script_location", str(folder).replace("%", "%%"))
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            if _current(connection) == revision:
                config.attributes["connection"] = connection
                with upgrading(str(path), revision, REVISION):
                    command.upgrade(config, "head")
            connection.exec_driver_sql("COMMIT")
    finally:
        made.dispose()


def _current(connection: sa.Connection) -> str | None:
    """Return the revision in the transaction, because another process may have migrated in the meantime."""
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    return str(connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar_one())
