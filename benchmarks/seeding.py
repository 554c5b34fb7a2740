"""A database with many events: a thousand that Busway stored and ran, copied by SQL.

Events, runs, results, counts and head stay consistent, and cursors into the copied log are valid.
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path

from busway.domain import cursor

from benchmarks import running
from benchmarks.load import Counter, post

BASE = 1_000  # events that Busway itself stores
SPAN = 1_000_000  # microseconds from one copy to the next; the last copy is the present
EVENT = {"type": "bench.noop", "data": {"item": "book", "quantity": 2}}

_BACK = f"(copies.copies - copies.copy) * {SPAN}"
_ON = f"copies.copy * {BASE}"
_MS = f"((old.time - {_BACK}) / 1000)"
# A UUIDv7: 48 bits of milliseconds, the version, and random bits, like those that Busway gives.
_ID = (
    f"printf('%08x-%04x-7%.3s-8%.3s-%.12s', {_MS} >> 16, {_MS} & 65535,"
    " lower(hex(randomblob(2))), lower(hex(randomblob(2))), lower(hex(randomblob(6))))"
)
_LATER = {
    name: f"old.{name} - {_BACK}"
    for name in ("time", "accepted_at", "created_at", "started_at", "finished_at")
}
_FURTHER = {name: f"old.{name} + {_ON}" for name in ("seq", "event", "run", "root", "number", "last_result")}
_TABLES: Mapping[str, Mapping[str, str]] = {
    "events": {"id": _ID},
    "runs": {"id": f"old.id + {_ON}"},
    "results": {},
}


def seed(place: Path, events: int) -> None:
    """Create `place/bench.db` with events, a multiple of a thousand, each with one successful run."""
    with running.busway(place=place) as gateway, contextlib.closing(Counter(gateway.url)) as counter:
        post(gateway.url + "/v1/events", json.dumps([EVENT] * BASE))
        counter.settle(BASE)
    with contextlib.closing(sqlite3.connect(place / "bench.db", isolation_level=None)) as database:
        for pragma in ("journal_mode=OFF", "synchronous=OFF", "cache_size=-200000", "temp_store=MEMORY"):
            database.execute(f"PRAGMA {pragma}")
        database.execute("BEGIN")
        _multiply(database, events // BASE)
        database.execute("COMMIT")
        database.execute("PRAGMA journal_mode=WAL")


def place_of(place: Path, number: int) -> str:
    """Return the cursor after result `number`."""
    with contextlib.closing(sqlite3.connect(place / "bench.db")) as database:
        (epoch,) = database.execute("SELECT epoch FROM head").fetchone()
        return cursor.encode(epoch, cursor.Position(number, _digest(database, number)))


def _multiply(database: sqlite3.Connection, copies: int) -> None:
    database.execute(
        "CREATE TEMP TABLE copies AS WITH RECURSIVE counted(copy) AS "
        f"(SELECT 0 UNION ALL SELECT copy + 1 FROM counted WHERE copy + 1 < {copies}) "
        f"SELECT copy, {copies} AS copies FROM counted"
    )
    for table, told in _TABLES.items():
        _copy(database, table, told)
    total = copies * BASE
    database.execute("UPDATE counts SET n = n * ?", (copies,))
    database.execute(
        "UPDATE head SET event = ?, run = ?, result = ?, digest = ?",
        (total, total, total, _digest(database, total)),
    )


def _copy(database: sqlite3.Connection, table: str, told: Mapping[str, str]) -> None:
    """Replace the rows of a table by copies, in order."""
    names = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
    key = names[0]
    found = database.execute(f"SELECT count(*), min({key}), max({key}) FROM {table}").fetchone()
    if found != (BASE, 1, BASE):
        raise RuntimeError(f"{table} should hold {BASE} rows without a gap: {found}")
    columns = ", ".join(
        told.get(name) or _FURTHER.get(name) or _LATER.get(name) or f"old.{name}" for name in names
    )
    database.execute(f"CREATE TEMP TABLE old_{table} AS SELECT * FROM {table}")
    database.execute(f"DELETE FROM {table}")
    database.execute(
        f"INSERT INTO {table} SELECT {columns} FROM copies CROSS JOIN old_{table} AS old "
        f"ORDER BY copy, old.{key}"
    )


def _digest(database: sqlite3.Connection, number: int) -> int:
    columns = "SELECT number, run, attempt, time FROM results WHERE number = ?"
    return cursor.digest(*database.execute(columns, (number,)).fetchone())
