"""PostgreSQL as the gateway and the commands see it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from typing import Any, BinaryIO

import psycopg
import sqlalchemy as sa

from busway.gateway.errors import BadSettings, Conflict, Unavailable
from busway.gateway.store.core import moving
from busway.gateway.store.core.handlers_keys import find_keys
from busway.gateway.store.core.transaction import Unusable
from busway.gateway.store.core.writer import Refused, Writer
from busway.gateway.store.port.cell import CellState
from busway.gateway.store.port.database import Health, Sizes
from busway.gateway.store.port.operations import Operation
from busway.gateway.store.port.reader import KeyRecord
from busway.gateway.store.postgres import connections, statements
from busway.gateway.store.postgres.cell import SELECT_NODES, node_rows
from busway.gateway.store.postgres.reader import PostgresReader
from busway.gateway.store.postgres.schema import OLDEST, REVISION, SCHEMA, cell
from busway.gateway.store.postgres.snapshot import PostgresSnapshot
from busway.gateway.store.postgres.transaction import PostgresTransaction

OLDEST_SERVER = 150_000  # PostgreSQL 15
_TRIPS = 9
NAME_PRIMARY = "name the primary server"


class _Lock:
    """Nothing: several nodes may use the database. The session of the committer keeps imports away."""

    def release(self) -> None:
        """Do nothing."""


class PostgresDatabase:
    """Implements `Database`.

    Args:
        url: as libpq takes it, with `postgresql://` or `postgres://`.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.shown = connections.shown(url)
        self.revision = REVISION

    def exists(self) -> bool:
        """Return whether the database has the tables of Busway."""
        with self._connect() as connection:
            return _revision(connection, self.shown) is not None

    def health(self) -> Health:
        """Look at the database and its server without changing anything."""
        with self._connect() as connection:
            revision = _revision(connection, self.shown)
            ask, taken = connection.exec_driver_sql, []
            for _ in range(_TRIPS):
                began = time.perf_counter()
                clock = float(ask("SELECT extract(epoch FROM clock_timestamp())").scalar_one())
                taken.append(time.perf_counter() - began)
            unsafe = {}
            for name in ("fsync", "full_page_writes", "synchronous_commit"):
                if (value := str(ask(f"SHOW {name}").scalar_one())) == "off":
                    unsafe[name] = value
            nodes = 0
            if revision is not None:
                nodes = int(ask(f"SELECT count(*) FROM {SCHEMA}.nodes WHERE closed_at IS NULL").scalar_one())  # noqa: S608
        user = f"{nodes} node{'s' if nodes > 1 else ''}" if nodes else ""
        return Health(revision, user, unsafe, statistics.median(taken), clock)

    def migrate(self, *, upgrade: bool = False, importing: bool = False) -> None:
        """Create the tables, or upgrade them if asked. `importing`: an unfinished import is accepted."""
        with self._connect() as connection:
            revision = _revision(connection, self.shown)
            if revision is None or (upgrade and revision < REVISION):
                self._upgrade(connection, revision)
            elif revision < REVISION:
                raise BadSettings(self._unusable("an older Busway made it: run `busway migrate` first"))
            query = "SELECT EXISTS (SELECT FROM imports)"
            if not importing and connection.exec_driver_sql(query).scalar_one():
                raise BadSettings(self._unusable(moving.UNFINISHED))

    def lock(self) -> _Lock:
        """Wait until no import uses the database. The committer locks it."""
        with self._connect() as connection:
            try:
                connections.lock(connection)
            except Unusable as problem:
                raise BadSettings(self._unusable(str(problem))) from None
        return _Lock()

    def reader(self) -> PostgresReader:
        """Return a reader."""
        return PostgresReader(self.url)

    def apply(self, operation: Operation) -> Any:
        """Write one operation and return its reply, even while a gateway runs."""
        self.migrate()
        with self._failing("write to"), self._engine() as connection:
            epoch = connection.execute(sa.select(cell.c.epoch)).scalar_one()
            reply = Writer(PostgresTransaction(connection, epoch)).write([operation])[1][0]
        if isinstance(reply, Refused):
            raise Conflict(reply.why)
        return reply

    def read_keys(self) -> list[KeyRecord]:
        """Return all API keys, including revoked ones."""
        if not self.exists():
            return []
        self.migrate()
        with self._connect() as connection:
            return find_keys(PostgresSnapshot(connection))

    def nodes(self) -> CellState:
        """Return the nodes that use the database, and which of them leads."""
        with self._connect() as connection:
            driver: Any = connection.connection.driver_connection
            term, leader = driver.execute(statements.SELECT_TERM).fetchone()
            return CellState(node_rows(driver.execute(SELECT_NODES).fetchall()), term, leader)

    def export(self) -> Iterator[tuple[bytes, int, int]]:
        """Yield the lines of an export, each with the number of rows so far, and of all, at most."""
        self.migrate()
        with self._failing("read"), self._engine() as connection:
            connection.exec_driver_sql("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout TO 0")  # a slow disk
            yield from moving.lines(PostgresSnapshot(connection))

    def load(self, file: BinaryIO) -> Iterator[int]:
        """Write an export into an empty database."""
        moving.check_file(file)
        self.migrate(importing=True)
        with self._failing("write to"), self._engine() as connection:
            try:
                connections.lock(connection, alone=True)
            except Unusable as problem:
                raise BadSettings(self._unusable(str(problem))) from None
            epoch = connection.execute(sa.select(cell.c.epoch)).scalar_one()
            yield from moving.load(PostgresTransaction(connection, epoch), file)
            # The server does it some time later. Until then it does not know that the tables are large.
            connection.exec_driver_sql("ANALYZE events, runs, results, attempts, trees")

    def check(self, file: BinaryIO) -> Iterator[int]:
        """Read an export as `load` does, and change nothing."""
        if moving.usable(self.health().revision, self.revision, self.shown) is None:
            yield from moving.check(None, file)
            return
        with self._failing("read"), self._engine() as connection:
            try:
                connections.lock(connection, alone=True)
            except Unusable as problem:
                raise BadSettings(self._unusable(str(problem))) from None
            connection.exec_driver_sql("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout TO 0")  # a large file
            yield from moving.check(PostgresSnapshot(connection), file)

    def sizes(self) -> Sizes:
        """Return the size of the database. What is free is not known here."""
        try:
            with self._engine() as connection:
                query = "SELECT pg_database_size(current_database())"
                return Sizes(int(connection.exec_driver_sql(query).scalar_one()), 0, None)
        except connections.ERRORS:
            return Sizes(0, 0, None)

    @contextmanager
    def _engine(self) -> Iterator[sa.Connection]:
        made = connections.engine(self.url, "command", poolclass=sa.NullPool)
        with made.connect() as connection:
            yield connection

    @contextmanager
    def _failing(self, what: str) -> Iterator[None]:
        """Raise `Unavailable` for errors of the database. `what`: what cannot be done, such as `write to`."""
        try:
            yield
        except connections.ERRORS as problem:
            raise Unavailable(
                f"cannot {what} the database {self.shown!r}, try again: {connections.cause(problem)}"
            ) from None

    @contextmanager
    def _connect(self) -> Iterator[sa.Connection]:
        """Connect to a server that Busway can use.

        Raises:
            BadSettings: there is none, or it cannot be used.
        """
        try:
            with self._engine() as connection:
                if why := _unfit(connection):
                    raise BadSettings(self._unusable(why))
                yield connection
        except connections.ERRORS as problem:
            raise BadSettings(self._unusable(problem)) from None

    def _unusable(self, why: str | BaseException) -> str:
        reason = why if isinstance(why, str) else connections.cause(why)
        if reason.endswith("session is read-only"):  # as libpq says it
            reason += f", such as a replica's: {NAME_PRIMARY}"
        return f"cannot use the database {self.shown!r}: {reason}"

    def _upgrade(self, connection: sa.Connection, revision: str | None) -> None:
        """Migrate in one transaction, one process at a time.

        Raises:
            BadSettings: nodes use the tables that could not use the new ones.
        """
        from alembic import command  # noqa: PLC0415 - the import takes half a second
        from alembic.config import Config  # noqa: PLC0415 - as above

        if revision is not None and revision < OLDEST:
            try:
                connections.lock(connection, alone=True)
            except Unusable as problem:
                raise BadSettings(self._unusable(str(problem))) from None
        with resources.as_file(resources.files("busway.migrations.postgres")) as folder:
            config = Config()
            config.set_main_option("script_location", str(folder).replace("%", "%%"))
            config.attributes["connection"] = connection
            connection.exec_driver_sql("BEGIN")
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({statements.MIGRATION})")
            if _revision(connection, self.shown) is None:
                connection.exec_driver_sql(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
            with moving.upgrading(self.shown, revision, REVISION):
                command.upgrade(config, "head")
            connection.exec_driver_sql(f"UPDATE {SCHEMA}.cell SET oldest = %s", (OLDEST,))  # noqa: S608 - a constant
            connection.exec_driver_sql("COMMIT")


def _unfit(connection: sa.Connection) -> str | None:
    """Return why Busway cannot use this server or database."""
    driver: Any = connection.connection.driver_connection
    server: psycopg.Connection[Any] = driver
    if server.info.server_version < OLDEST_SERVER:
        version = server.info.parameter_status("server_version")
        return f"it is PostgreSQL {version}, and Busway needs 15 or later"
    encoding = server.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        return f"its encoding is {encoding}: create one with ENCODING 'UTF8' TEMPLATE template0"
    (read_only,) = connection.exec_driver_sql("SHOW transaction_read_only").one()
    return f"it is read-only, such as a replica: {NAME_PRIMARY}" if read_only == "on" else None


def _revision(connection: sa.Connection, shown: str) -> str | None:
    """Return the revision of the schema, None if there is none.

    Raises:
        BadSettings: the tables belong to another program, or to a newer Busway and this one cannot use them.
    """
    query = "SELECT to_regclass(%s), EXISTS (SELECT FROM pg_tables WHERE schemaname = %s)"
    versions, others = connection.exec_driver_sql(query, (f"{SCHEMA}.alembic_version", SCHEMA)).one()
    if versions is None:
        if others:
            raise BadSettings(
                f"the schema {SCHEMA!r} of {shown!r} belongs to another program: choose another database"
            )
        return None
    revision = connection.exec_driver_sql(f"SELECT version_num FROM {SCHEMA}.alembic_version").scalar()  # noqa: S608
    if revision is not None and str(revision) > REVISION:
        oldest = connection.exec_driver_sql(f"SELECT oldest FROM {SCHEMA}.cell").scalar_one()  # noqa: S608
        if str(oldest) <= REVISION:
            return str(revision)
        raise BadSettings(
            f"the database {shown!r} belongs to a newer Busway (schema {revision}, not "
            f"{REVISION}): upgrade Busway, or choose another database"
        )
    return None if revision is None else str(revision)
