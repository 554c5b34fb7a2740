"""The database that a run of the tests uses: SQLite, or what BUSWAY_TEST_DATABASE names.

BUSWAY_TEST_NODES is the number of nodes on it, 1 or 2. BUSWAY_TEST_BROKER=nats lets them notify each other
over NATS, BUSWAY_TEST_BROKER=some those of about every second folder.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import secrets
import shutil
import sqlite3
import tempfile
import zlib
from pathlib import Path

from busway.gateway.store.sqlite import database as sqlite

from tests.servers.nats import NatsServer
from tests.servers.postgres import PostgresServer

KIND = os.environ.get("BUSWAY_TEST_DATABASE", "sqlite")
KINDS = ("sqlite", "postgres")
if KIND not in KINDS:
    raise ValueError(f"BUSWAY_TEST_DATABASE is {KIND!r}, and must be one of {KINDS}")
NODES = int(os.environ.get("BUSWAY_TEST_NODES", "1"))
if NODES not in ((1, 2) if KIND == "postgres" else (1,)):
    raise ValueError(f"BUSWAY_TEST_NODES is {NODES}, and must be 1, or 2 on PostgreSQL")
BROKER = os.environ.get("BUSWAY_TEST_BROKER", "none")
BROKERS = ("none", "some", "nats")
if BROKER not in (BROKERS if NODES > 1 else ("none",)):
    raise ValueError(f"BUSWAY_TEST_BROKER is {BROKER!r}, and must be one of {BROKERS}, with several nodes")

_numbers = itertools.count(1)
_names: dict[Path, str] = {}


@functools.cache
def postgres() -> PostgresServer:
    """Return the server of this process, which its tests share.

    It does not sync: only a power failure would need that, and each DROP DATABASE would sync everything.
    """
    server = PostgresServer(fsync="off").start()
    atexit.register(server.close)
    return server


@functools.cache
def nats() -> NatsServer:
    """Return the broker of this process, which its tests share."""
    server = NatsServer().start()
    atexit.register(server.close)
    return server


def broker_of(folder: Path) -> str | None:
    """Return the URL of the broker for the nodes of a folder. None: they have none."""
    if BROKER == "none" or (BROKER == "some" and zlib.crc32(folder.name.encode()) % 2):
        return None
    return f"nats://127.0.0.1:{nats().port}"


def url_of(folder: Path) -> str:
    """Return the URL of the database that belongs to a folder.

    Without `prepare` there is none if it is SQLite, and it is empty if it is PostgreSQL.
    """
    if KIND == "sqlite":
        return f"sqlite:///{folder / 'busway.db'}"
    if folder not in _names:
        _names[folder] = f"e2e_{next(_numbers)}"
        postgres().create(_names[folder])
    return postgres().url(_names[folder])


@functools.cache
def _migrated() -> Path:
    """Return a file with the newest schema."""
    made = Path(tempfile.mkdtemp(prefix="busway-template-"))
    atexit.register(shutil.rmtree, made, ignore_errors=True)
    sqlite.migrate(made / "busway.db")
    return made / "busway.db"


def prepare(folder: Path) -> None:
    """Make the database of a folder, if it is SQLite: a copy with its own epoch. Migrations take longer."""
    path = folder / "busway.db"
    if KIND == "sqlite" and not path.exists():
        new = path.with_suffix(".new")
        shutil.copy(_migrated(), new)
        with contextlib.closing(sqlite3.connect(new)) as connection:
            connection.execute("UPDATE head SET epoch = ?", (secrets.token_hex(8),))
            connection.commit()
        new.rename(path)


def drop(folder: Path) -> None:
    """Delete the database that belongs to a folder. A file stays with its folder."""
    if folder in _names:
        postgres().drop(_names.pop(folder))
