"""`make move`: a million events move from SQLite to PostgreSQL and back, and every row stays what it is.

A gateway stores rows of every kind. SQL copies them until there are as many events as `MOVE_EVENTS` says.
"""

from __future__ import annotations

import contextlib
import filecmp
import os
import re
import resource
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from busway.domain import cursor

from tests.e2e.service import Service, clean_environment, hear, items, say, until
from tests.e2e.test_moving import fill
from tests.servers.postgres import running

EVENTS = int(os.environ.get("MOVE_EVENTS", "1000000"))
MEMORY = 150 << 20  # bytes that a command may take, however large the database is
KEYS = {
    "node_names": "id", "events": "seq", "runs": "id", "attempts": "run, attempt", "results": "number",
    "trees": "root", "handlers": "id", "handler_revisions": "handler, revision", "keys": "id",
    "durables": "name", "head": "epoch", "counts": "handler, state", "last_errors": "handler",
}  # fmt: skip
EVENT, RUN, RESULT = (f"+ copy * (SELECT {name} FROM head)" for name in ("event", "run", "result"))
NAME = "|| '-' || copy"
MOVED = {
    "events": {"seq": EVENT, "root": EVENT, "parent": RUN, "id": NAME, "correlationid": NAME},
    "runs": {"id": RUN, "event": EVENT, "root": EVENT, "last_result": RESULT},
    "attempts": {"run": RUN},
    "results": {"number": RESULT, "run": RUN, "event": EVENT},
    "trees": {"root": EVENT},
    "durables": {"name": NAME, "number": RESULT},
}  # fmt: skip


@pytest.mark.soak
def test_a_million_events_move_and_come_back_the_same(tmp_path: Path) -> None:
    service = Service(tmp_path)
    fill(service, good=20, waiting=4)
    original = tmp_path / "busway.db"
    multiply(original)
    place = middle(original)
    with running(shared_buffers="256MB") as server:
        target = server.create("moved")
        first, second, third = (tmp_path / name for name in ("first", "second", "third"))
        step("export", first, f"sqlite:///{original}")
        step("import", first, target)
        step("export", second, target)
        assert filecmp.cmp(first, second, shallow=False)
        step("import", second, f"sqlite:///{tmp_path}/back.db")
        step("export", third, f"sqlite:///{tmp_path}/back.db")
        assert filecmp.cmp(first, third, shallow=False)
        same(original, tmp_path / "back.db")
        (tmp_path / "go").touch()
        for url in (target, f"sqlite:///{tmp_path}/back.db"):
            service.database_url = url
            resumes(service, place)
    service.close()


def multiply(path: Path) -> None:
    """Copy all rows, with other numbers, until there are enough events."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        until(lambda: alone(database), "what is left of the killed gateway to end")
        database.execute("PRAGMA cache_size=-200000")
        events, results = database.execute("SELECT event, result FROM head").fetchone()
        copies = -(-EVENTS // events)
        database.execute("BEGIN")
        database.execute(
            "CREATE TEMP TABLE copies AS WITH RECURSIVE all_copies(copy) AS "
            f"(SELECT 1 UNION ALL SELECT copy + 1 FROM all_copies WHERE copy + 1 < {copies}) "
            "SELECT copy FROM all_copies"
        )
        for table, moved in MOVED.items():
            names = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
            columns = ", ".join(f'old."{name}" {moved.get(name, "")}' for name in names)
            database.execute(f"CREATE TEMP TABLE old_{table} AS SELECT * FROM {table}")
            few = "WHERE copy < 1000" if table == "durables" else ""
            database.execute(
                f"INSERT INTO {table} SELECT {columns} FROM copies CROSS JOIN old_{table} AS old {few}"
            )
        database.execute("UPDATE counts SET n = n * ?", (copies,))
        database.execute(
            "UPDATE head SET event = event * ?1, run = run * ?1, result = result * ?1", (copies,)
        )
        database.execute("UPDATE head SET digest = ?", (digest(database, results * copies),))
        for name, number in database.execute("SELECT name, number FROM durables").fetchall():
            new = digest(database, number)
            database.execute("UPDATE durables SET digest = ? WHERE name = ?", (new, name))
        database.execute("COMMIT")
        database.execute("PRAGMA journal_mode=WAL")


def alone(database: sqlite3.Connection) -> bool:
    """Return whether nobody else has the file open any more, and write without a journal from then on."""
    with contextlib.suppress(sqlite3.OperationalError):
        return database.execute("PRAGMA journal_mode=OFF").fetchone() == ("off",)
    return False


def digest(database: sqlite3.Connection, number: int) -> int:
    query = "SELECT number, run, attempt, time FROM results WHERE number = ?"
    return cursor.digest(*database.execute(query, (number,)).fetchone())


def middle(path: Path) -> str:
    """Return a cursor in the middle of the log."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        epoch, number = database.execute("SELECT epoch, result / 2 FROM head").fetchone()
        return cursor.text(epoch, number, digest(database, number))


def step(command: str, file: Path, url: str) -> None:
    """Run a command, and print how long it took and how much memory."""
    began, used = time.monotonic(), cpu_time()
    words = [sys.executable, "-m", "busway", command, str(file), f"--database-url={url}"]
    memory = 0
    with subprocess.Popen(words, env=clean_environment(), cwd=file.parent) as process:
        while process.poll() is None:
            # Of the program alone: what the kernel counts for `wait4` begins with the size of this process.
            status = Path(f"/proc/{process.pid}/status").read_text()
            memory = max([memory, *(int(kib) << 10 for kib in re.findall(r"VmHWM:\s+(\d+)", status))])
            time.sleep(0.05)
    seconds, cpu = time.monotonic() - began, cpu_time() - used
    kind = url.partition(":")[0]
    size = file.stat().st_size
    print(
        f"{command} {kind}: {seconds:.0f} s, {cpu:.0f} s CPU, {memory >> 20} MiB, a file of {size >> 20} MiB"
    )
    assert process.returncode == 0
    assert memory < MEMORY


def cpu_time() -> float:
    """Return the seconds that all programs took that ended: without servers."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def rows(database: sqlite3.Connection, table: str) -> Iterator[tuple[object, ...]]:
    names = [row[1] for row in database.execute(f"PRAGMA table_info({table})")]
    # The writer's number and the holder of a durable name belong to a process.
    kept = ", ".join(f'"{name}"' for name in names if name not in {"writer", "holder"})
    some = "WHERE n != 0" if table == "counts" else ""
    return database.execute(f"SELECT {kept} FROM {table} {some} ORDER BY {KEYS[table]}")


def same(one: Path, other: Path) -> None:
    """Compare all rows of two databases, without the program that moved them."""
    total = 0
    with contextlib.ExitStack() as stack:
        both = [stack.enter_context(contextlib.closing(sqlite3.connect(path))) for path in (one, other)]
        for table in KEYS:
            before = total
            for row, copy in zip(*(rows(database, table) for database in both), strict=True):
                assert row == copy, table
                total += 1
            print(f"{table}: {total - before} rows are equal")
            assert total > before
    print(f"{total} rows are equal")


def resumes(service: Service, place: str) -> None:
    """Check that clients continue at the cursors that they had."""
    began = time.monotonic()
    service.start()
    print(f"ready after {time.monotonic() - began:.1f} s")
    number = cursor.decode(place)[1].number
    with service.connect() as websocket:
        say(websocket, op="subscribe", id="s", after=place)
        answer = hear(websocket)
        assert answer["recovered"]
        assert answer["cursor"] == place
        found = [cursor.decode(item["cursor"])[1].number for item in items(websocket, 1_000)]
        assert found == [*range(number + 1, number + len(found) + 1)]
        say(websocket, op="unsubscribe", id="s")
    with service.connect() as websocket:
        say(websocket, op="subscribe", id="d", durable="kept")
        assert hear(websocket)["recovered"]
    assert service.stop() == 0
