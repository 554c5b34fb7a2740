"""The databases of the conformance suite. Another one needs a class here and its name in `DATABASES`."""

from __future__ import annotations

import contextlib
import itertools
import resource
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Protocol

import pytest
import sqlalchemy as sa
from busway.gateway.errors import Conflict
from busway.gateway.store.core.writer import Refused, Writer
from busway.gateway.store.group.commits import GroupCommits
from busway.gateway.store.group.process import Launched, launch
from busway.gateway.store.port.operations import Operation
from busway.gateway.store.port.reader import Reader
from busway.gateway.store.postgres import connections
from busway.gateway.store.postgres.facade import PostgresDatabase
from busway.gateway.store.postgres.reader import PostgresReader
from busway.gateway.store.postgres.transaction import PostgresTransaction
from busway.gateway.store.sqlite import database as sqlite
from busway.gateway.store.sqlite.reader import SQLiteReader
from busway.gateway.store.sqlite.transaction import SQLiteTransaction

from tests.servers.chosen import postgres


class Batches(Protocol):
    """Writes batches in this process, as the committer does in its own."""

    def write(self, operations: Sequence[Operation], since: int | None = None) -> list[Any]:
        """Write a batch and return the replies. That to a refused operation is a `Conflict`.

        `since`: number of the newest result whose reply has arrived. None if nothing was sent before.
        """

    def close(self) -> None:
        """Close the connection."""


class OpenReader(Reader, Protocol):
    """A reader that the test closes."""

    async def open(self) -> None:
        """Open all connections."""

    def close(self) -> None:
        """Close all connections."""


class Database(Protocol):
    """A new database with the newest schema and no rows. What is opened on it, the tests close.

    It can be pickled, and then it is the same database in another process.

    Attributes:
        absent: faults that this database cannot show, each with the reason: names of methods.
    """

    absent: ClassVar[dict[str, str]]

    def __init__(self, folder: Path, shared: Path) -> None:
        """Make it. `folder` is empty and belongs to this test, `shared` to all tests of this process."""

    def batches(self) -> Batches:
        """Open a connection that writes. Only for databases without a committer."""

    def batches_of(self, node: int) -> Batches:
        """Open a connection that writes as node 1 or 2, as if the database had both. The first one leads."""

    def commits(self, launched: Launched | None = None) -> GroupCommits:
        """Return commits that are not started yet. `launched`: the first committer process."""

    def launch(self) -> Launched:
        """Start a committer process."""

    def reader(self, threads: int = 4) -> OpenReader:
        """Return a reader with so many connections."""

    def apply(self, operation: Operation) -> Any:
        """Write one operation, as a `busway` command does beside a gateway. Return its reply.

        Raises:
            Conflict: the store refused it.
        """

    def cut(self, commits: GroupCommits) -> None:
        """End the committer's connection to the database, as a server that restarts does."""

    def full(self, commits: GroupCommits) -> AbstractContextManager[None]:
        """Let the disk be full."""

    def close(self) -> None:
        """Delete it."""


class SQLiteBatches:
    """Batches over one connection to a file."""

    def __init__(self, path: Path, node: int | None = None) -> None:
        self.engine = sqlite.engine(path)
        self.connection = self.engine.connect()
        self._writer = Writer(SQLiteTransaction(self.connection, node=node))

    def write(self, operations: Sequence[Operation], since: int | None = None) -> list[Any]:
        replies = self._writer.write(operations, since)[1]
        return [Conflict(reply.why) if isinstance(reply, Refused) else reply for reply in replies]

    def close(self) -> None:
        self.connection.close()
        self.engine.dispose()


class SQLiteFile:
    """A file with the newest schema."""

    absent: ClassVar = {"cut": "SQLite has no server that could end a connection"}

    def __init__(self, path: Path) -> None:
        self.path = path

    def batches(self) -> SQLiteBatches:
        return SQLiteBatches(self.path)

    def batches_of(self, node: int) -> SQLiteBatches:
        return SQLiteBatches(self.path, node)

    def commits(self, launched: Launched | None = None) -> GroupCommits:
        return GroupCommits(sqlite.address(self.path), launched)

    def launch(self) -> Launched:
        return launch()

    def reader(self, threads: int = 4) -> SQLiteReader:
        return SQLiteReader(self.path, threads)

    def apply(self, operation: Operation) -> Any:
        return sqlite.apply(self.path, operation)

    def cut(self, commits: GroupCommits) -> None:
        raise NotImplementedError

    @contextlib.contextmanager
    def full(self, commits: GroupCommits) -> Iterator[None]:
        """Limit the size of files: every COMMIT that needs more space fails."""
        assert commits.pid is not None
        soft, hard = resource.prlimit(commits.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(commits.pid, resource.RLIMIT_FSIZE, (1, hard))
        yield
        resource.prlimit(commits.pid, resource.RLIMIT_FSIZE, (soft, hard))

    def close(self) -> None:
        """Leave the file to the test's folder."""


class SQLite(SQLiteFile):
    """A new file in the test's folder: a copy, because migrations take long."""

    def __init__(self, folder: Path, shared: Path) -> None:
        super().__init__(folder / "busway.db")
        template = shared / "template.db"
        if not template.exists():
            sqlite.migrate(template)
        shutil.copy(template, self.path)


class PostgresBatches:
    """Batches over one connection to a server."""

    def __init__(self, url: str, node: int = 0) -> None:
        self._engine = connections.engine(url, "test", poolclass=sa.NullPool)
        self._connection = self._engine.connect()
        self._writer = Writer(PostgresTransaction(self._connection, "test", node))

    def write(self, operations: Sequence[Operation], since: int | None = None) -> list[Any]:
        replies = self._writer.write(operations, since)[1]
        return [Conflict(reply.why) if isinstance(reply, Refused) else reply for reply in replies]

    def close(self) -> None:
        self._connection.close()
        self._engine.dispose()


class Postgres:
    """A new database on a server of this process: a copy, because migrations take long."""

    absent: ClassVar = {"full": "the disk is the server's, which other tests use"}

    def __init__(self, folder: Path, shared: Path) -> None:
        server = postgres()
        name = f"test_{next(_numbers)}"
        if not _templates:
            PostgresDatabase(server.create("template_busway")).migrate()
            _templates.append("template_busway")
        self._name = name
        self._facade = PostgresDatabase(server.create(name, f"TEMPLATE {_templates[0]}"))

    @property
    def url(self) -> str:
        return self._facade.url

    def batches(self) -> PostgresBatches:
        return PostgresBatches(self._facade.url)

    def batches_of(self, node: int) -> PostgresBatches:
        engine = connections.engine(self._facade.url, "test", poolclass=sa.NullPool)
        with engine.connect() as connection:
            for statement in _TWO_NODES:
                connection.exec_driver_sql(statement)
        return PostgresBatches(self._facade.url, node)

    def commits(self, launched: Launched | None = None) -> GroupCommits:
        return GroupCommits(self._facade.url, launched)

    def launch(self) -> Launched:
        return launch()

    def reader(self, threads: int = 4) -> PostgresReader:
        return PostgresReader(self._facade.url, threads)

    def apply(self, operation: Operation) -> Any:
        return self._facade.apply(operation)

    def cut(self, commits: GroupCommits) -> None:
        cutting = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            f"WHERE datname = '{self._name}' AND application_name LIKE 'busway/committer/%'"
        )
        deadline = time.monotonic() + _PATIENCE
        while not postgres().execute(cutting):  # the committer may be connecting again just now
            assert time.monotonic() < deadline, "there is no connection to cut"

    def full(self, commits: GroupCommits) -> AbstractContextManager[None]:
        raise NotImplementedError

    def close(self) -> None:
        postgres().drop(self._name)


_TWO_NODES = (
    """
    INSERT INTO nodes (id, name, version, boot, pid_namespace, pid, pid_started, opened_at)
    SELECT n, 'node', '1', '', 0, 0, 0, 0 FROM generate_series(1, 2) AS n ON CONFLICT DO NOTHING
    """,
    "INSERT INTO terms VALUES (1, 1, 0) ON CONFLICT DO NOTHING",
)
_PATIENCE = 60.0  # seconds
_numbers = itertools.count(1)
_templates: list[str] = []


DATABASES: dict[str, type[Database]] = {"sqlite": SQLite, "postgres": Postgres}
ON_ALL = pytest.mark.parametrize("database", DATABASES, indirect=True)
