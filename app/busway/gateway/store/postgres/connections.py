"""Connections to PostgreSQL, and what its errors mean."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Generator, Sequence
from typing import Any, TypeVar

import psycopg
import sqlalchemy as sa
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from busway.gateway.store.core.transaction import Unusable
from busway.gateway.store.postgres import constructs  # noqa: F401 - registers how to compile the queries
from busway.gateway.store.postgres.schema import SCHEMA
from busway.gateway.store.postgres.statements import IN_USE

# It also logs errors that it raises.
logging.getLogger("psycopg").setLevel(logging.CRITICAL)

ERRORS: tuple[type[Exception], ...] = (sa.exc.DBAPIError, psycopg.Error)

PATIENCE = 10.0  # seconds without an answer, after which a connection is closed
_LOCK_PATIENCE = 15.0  # seconds; longer than a server takes to notice that a node's machine is gone

_IN_USE = "a gateway uses this database: stop it, or choose another database"
_IMPORTING = "an import into this database is running: wait for its end, or choose another database"

# A server or network that is silent must not hold a connection for long.
_DEFAULTS: dict[str, str] = {
    "connect_timeout": "5",
    "keepalives_idle": "5",
    "keepalives_interval": "2",
    "keepalives_count": "3",
    "tcp_user_timeout": "5000",
    "target_session_attrs": "read-write",
}
_SESSION = (
    f"SET search_path TO {SCHEMA}",
    # The server, too, must notice soon that the other end is gone: its session has the lock.
    "SET tcp_keepalives_idle TO 5",
    "SET tcp_keepalives_interval TO 2",
    "SET tcp_keepalives_count TO 3",
    "SET tcp_user_timeout TO 5000",
    "SET idle_in_transaction_session_timeout TO '10s'",
    "SET statement_timeout TO 0",
    "SET lock_timeout TO 0",
    # `transaction_timeout` is new in PostgreSQL 17.
    """
    SELECT set_config(name, '0', false) FROM pg_settings
    WHERE name IN ('idle_session_timeout', 'transaction_timeout')
    """,
    "SET client_encoding TO utf8",
    "SET datestyle TO iso",
    "SET array_nulls TO on",
    "SET plan_cache_mode TO auto",
    "SET client_min_messages TO warning",
    "SET jit TO off",  # all statements are short
    # A 202 means synced. Stricter settings of the server, such as remote_apply, stay.
    """
    SELECT set_config('synchronous_commit', 'on', false)
    WHERE current_setting('synchronous_commit') IN ('off', 'local')
    """,
)
# For the writer's statements, which find rows by a list of keys. Their plans are kept: one that was made when
# a table was small is used when it is large, until somebody analyzes it.
BY_INDEX = (
    *(f"SET enable_{way} TO off" for way in ("seqscan", "hashjoin", "mergejoin")),
    *(f"SET enable_{way} TO on" for way in ("nestloop", "indexscan")),
)

_PROCESS = "SELECT pg_backend_pid()"
_SHARED = (
    "a connection pool in front of it gives each transaction another session: use a pool that keeps sessions "
    "(PgBouncer: pool_mode = session)"
)
_FULL = "the connection pool in front of it has no connection left (Busway needs 7)"

T = TypeVar("T")


class Connection(psycopg.Connection[Any]):
    """A connection that closes itself when the server does not answer.

    No timeout of PostgreSQL or TCP notices a server that is frozen, or a commit that waits for a standby.

    Attributes:
        patience: seconds without an answer.
        silent: whether it was closed for that.
    """

    patience = PATIENCE
    silent = False

    def wait(self, gen: Generator[Any, Any, T], *args: Any, **options: Any) -> T:
        """Wait for the server, as psycopg does for each statement.

        Raises:
            psycopg.OperationalError: it did not answer.
        """
        return super().wait(self._within_patience(gen), *args, **options)

    def _within_patience(self, gen: Generator[Any, Any, T]) -> Generator[Any, Any, T]:
        try:
            wanted = next(gen)
            heard = time.monotonic()
            while True:
                ready = yield wanted
                if ready:
                    wanted = gen.send(ready)
                    heard = time.monotonic()
                elif time.monotonic() - heard > self.patience:
                    self.silent = True
                    self.close()
                    raise psycopg.OperationalError(no_answer(self.patience))
        except StopIteration as end:
            answer: T = end.value
            return answer


def no_answer(patience: float = PATIENCE) -> str:
    """Return the message about a server that did not answer for so many seconds."""
    return f"no answer for {patience:.0f} s"


def connect(
    url: str, name: str, patience: float = math.inf, settings: Sequence[str] = (), *, reads: bool = False
) -> Connection:
    """Open a connection in autocommit mode.

    Args:
        url: as libpq takes it: several hosts, and parameters such as `sslmode`.
        name: what uses the connection. It is shown in `pg_stat_activity`.
        patience: seconds after which the connection is closed if the server does not answer a statement.
        settings: more statements that set the session up.
        reads: whether it only reads. Then a server that cannot be written will do, if there is no other.

    Raises:
        psycopg.OperationalError: the server cannot be reached or refuses the connection, or a connection pool
            shares its sessions.
    """
    info = _info(url, name, reads=reads)
    connection = Connection.connect(info, autocommit=True)
    try:
        if process(connection) != connection.info.backend_pid:
            _check_pool(connection, info)
        connection.execute("; ".join((*_SESSION, *settings)))
    except psycopg.Error as problem:
        connection.close()
        raise _explained(problem) from None
    connection.patience = patience
    return connection


def process(connection: Connection) -> int:
    """Return the number of the server's process that answers. A connection pool has numbers of its own."""
    row: tuple[int] = connection.execute(_PROCESS, prepare=False).fetchone() or (0,)
    return row[0]


def _check_pool(first: Connection, info: str) -> None:
    """Check that a connection pool gives each of two connections a session of its own. Change no setting.

    With many other clients a pool that shares sessions may answer as one that does not, so it is asked often.

    Raises:
        psycopg.OperationalError: it shares them, or has none left.
    """
    try:
        with Connection.connect(info, autocommit=True) as second:
            found = {(turn is first, process(turn)) for turn in (first, second, second) * 10}
    except psycopg.OperationalError as problem:
        raise _explained(problem, full=True) from None
    if len(found) > 2 or len({number for _, number in found}) < 2:
        raise psycopg.OperationalError(_SHARED)


async def connect_async(url: str, name: str) -> psycopg.AsyncConnection[Any]:
    """Open a connection for the event loop, as `connect` does. It has no patience of its own."""
    connection = await psycopg.AsyncConnection.connect(_info(url, name), autocommit=True)
    try:
        for statement in _SESSION:
            await connection.execute(statement)
    except psycopg.Error as problem:
        await connection.close()
        raise _explained(problem) from None
    return connection


def _info(url: str, name: str, *, reads: bool = False) -> str:
    given: dict[str, Any] = conninfo_to_dict(url)
    defaults = _DEFAULTS | {"application_name": f"busway/{name}"}
    if reads and "," not in str(given.get("host") or given.get("hostaddr") or ""):
        del defaults["target_session_attrs"]
    return make_conninfo(**(defaults | given))


def _explained(problem: psycopg.Error, *, full: bool = False) -> psycopg.Error:
    """Return an error of a new connection. `full`, or the words of PgBouncer: a pool has no session left."""
    text = cause(problem)
    if text.startswith(_FULL) or not (full or "query_wait_timeout" in text):
        return problem
    return psycopg.OperationalError(f"{_FULL}: {text}")


def engine(
    url: str,
    name: str,
    patience: float = math.inf,
    settings: Sequence[str] = (),
    *,
    reads: bool = False,
    **options: Any,
) -> sa.Engine:
    """Return an engine in autocommit mode. Transactions begin and end with statements.

    Args:
        url: the database.
        name: as in `connect`.
        patience: as in `connect`.
        settings: as in `connect`.
        reads: as in `connect`.
        options: for `sqlalchemy.create_engine`.
    """
    return sa.create_engine(
        "postgresql+psycopg://",
        creator=lambda: connect(url, name, patience, settings, reads=reads),
        isolation_level="AUTOCOMMIT",
        **options,
    )


def lock(connection: sa.Connection, *, alone: bool = False) -> None:
    """Record for this session that the database is in use. Wait a moment for sessions that were killed.

    `alone`: no node may use it meanwhile.

    Raises:
        Unusable: another session uses it alone, or uses it and this one wants to be alone.
    """
    shared = "" if alone else "_shared"
    query = f"SELECT pg_try_advisory_lock{shared}({IN_USE})"
    deadline = time.monotonic() + _LOCK_PATIENCE
    while not connection.exec_driver_sql(query).scalar_one():
        if time.monotonic() > deadline:
            raise Unusable(_IN_USE if alone else _IMPORTING)
        time.sleep(0.05)


def shown(url: str) -> str:
    """Return the URL without its password and other secrets."""
    try:
        given: dict[str, Any] = conninfo_to_dict(url)
    except psycopg.Error:
        return "postgresql://…"
    hosts = str(given.get("host") or given.get("hostaddr") or "localhost").split(",")
    ports = str(given.get("port") or "").split(",")
    places = ",".join(
        host + (f":{port}" if (port := ports[min(n, len(ports) - 1)]) else "") for n, host in enumerate(hosts)
    )
    user = f"{given['user']}@" if given.get("user") else ""
    return f"postgresql://{user}{places}/{given.get('dbname') or ''}"


def cause(problem: BaseException) -> str:
    """Return the server's or driver's message in one line."""
    original = getattr(problem, "orig", None) or problem
    primary = getattr(getattr(original, "diag", None), "message_primary", None)
    text = str(primary or original).strip() or type(original).__name__
    return "; ".join(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
