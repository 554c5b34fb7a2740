"""The database that a run of the tests uses: SQLite, or what BUSWAY_TEST_DATABASE names."""

from __future__ import annotations

import atexit
import functools
import itertools
import os
from pathlib import Path

from tests.servers.postgres import PostgresServer

KIND = os.environ.get("BUSWAY_TEST_DATABASE", "sqlite")
KINDS = ("sqlite", "postgres")
if KIND not in KINDS:
    raise ValueError(f"BUSWAY_TEST_DATABASE is {KIND!r}, and must be one of {KINDS}")

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


def url_of(folder: Path) -> str:
    """Return the URL of the database that belongs to a folder. It is empty at first."""
    if KIND == "sqlite":
        return f"sqlite:///{folder / 'busway.db'}"
    if folder not in _names:
        _names[folder] = f"e2e_{next(_numbers)}"
        postgres().create(_names[folder])
    return postgres().url(_names[folder])


def drop(folder: Path) -> None:
    """Delete the database that belongs to a folder. A file stays with its folder."""
    if folder in _names:
        postgres().drop(_names.pop(folder))
