"""Connections to PostgreSQL, and what its errors mean."""

from __future__ import annotations

import logging
import time
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from busway.gateway.store.core.transaction import Unusable
from busway.gateway.store.postgres import constructs  # noqa: F401 - registers how to compile the queries
from busway.gateway.store.postgres.schema import SCHEMA
from busway.gateway.store.postgres.statements import ONE_GATEWAY

# It also logs errors that it raises.
logging.getLogger("psycopg").setLevel(logging.CRITICAL)

ERRORS: tuple[type[Exception], ...] = (sa.exc.DBAPIError, psycopg.Error)

_LOCK_PATIENCE = 15.0  # seconds; longer than a server takes to notice that a gateway's machine is gone

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
    "SET client_min_messages TO warning",
    # A 202 means synced. Stricter settings of the server, such as remote_apply, stay.
    """
    SELECT set_config('synchronous_commit', 'on', false)
    WHERE current_setting('synchronous_commit') IN ('off', 'local')
    """,
)


def connect(url: str, name: str) -> psycopg.Connection[Any]:
    """Open a connection in autocommit mode.

    Args:
        url: as libpq takes it: several hosts, and parameters such as `sslmode`.
        name: what uses the connection. It is shown in `pg_stat_activity`.

    Raises:
        psycopg.OperationalError: the server cannot be reached, or refuses the connection.
    """
    given: dict[str, Any] = conninfo_to_dict(url)
    info = make_conninfo(**(_DEFAULTS | {"application_name": f"busway/{name}"} | given))
    connection = psycopg.connect(info, autocommit=True)
    for statement in _SESSION:
        connection.execute(statement)
    return connection


def engine(url: str, name: str, **options: Any) -> sa.Engine:
    """Return an engine in autocommit mode. Transactions begin and end with statements.

    Args:
        url: the database.
        name: as in `connect`.
        options: for `sqlalchemy.create_engine`.
    """
    return sa.create_engine(
        "postgresql+psycopg://",
        creator=lambda: connect(url, name),
        isolation_level="AUTOCOMMIT",
        **options,
    )


def lock(connection: sa.Connection) -> None:
    """Lock the database for this session. Wait a moment for the end of a gateway that was killed.

    Raises:
        Unusable: another gateway has the lock.
    """
    deadline = time.monotonic() + _LOCK_PATIENCE
    while not connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({ONE_GATEWAY})").scalar_one():
        if time.monotonic() > deadline:
            raise Unusable("another gateway uses this database: stop it, or choose another database")
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
