"""Writes the same rows in the same commits as Busway, with only the standard library's sqlite3.

    python -m benchmarks.peers.bare_sqlite FOLDER

FOLDER has a database that Busway wrote, `bench.db`, and `commits.json`, the numbers that each of its
commits reached. The rows are read before the measurement; each round writes them into a new database with
the same schema. The statements are Busway's own, and so are the pragmas and the sizes at which the log is
checkpointed.
"""

from __future__ import annotations

import gc
import json
import sqlite3
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from busway.gateway.store.core.schema import SUCCEEDED
from busway.gateway.store.core.transaction import COLUMNS, EVENT, MUTABLE, RESULT, RUN
from busway.gateway.store.sqlite import statements
from busway.gateway.store.sqlite.checkpoints import FIRST, STEP, TRUNCATE_OVER
from busway.gateway.store.sqlite.write_connection import BUSY, CACHE

from benchmarks.peers.answering import answer

WAITING = 0  # the state in which a run is inserted
PRAGMAS = ("wal_autocheckpoint=0", "synchronous=FULL", f"cache_size=-{CACHE}", f"busy_timeout={BUSY}")
WRITTEN = ("events", "runs", "results", "counts", "head")

Rows = list[tuple[object, ...]]


@dataclass(frozen=True)
class Commit:
    """The rows of one commit, as the statements take them."""

    events: Rows
    runs: Rows
    ended: Rows
    results: Rows
    counts: Rows
    head: tuple[int, ...]


class Recorded:
    """A database that Busway wrote, commit by commit.

    Attributes:
        commits: what each of its commits wrote.
        seen_of: how many commits Busway counted; fewer are seen if two are too close to distinguish.
        events: how many events these are.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / "bench.db"
        told = json.loads((folder / "commits.json").read_text())
        heads, self.seen_of = told["heads"], told["commits"]
        connection = sqlite3.connect(self.path)
        self.commits = [_commit(connection, before, after) for before, after in pairwise(heads)]
        connection.close()
        self.events = sum(len(commit.events) for commit in self.commits)

    def copy_empty(self, path: Path) -> None:
        """Create a database with the same schema and the rows from before the first event."""
        path.unlink(missing_ok=True)
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("ATTACH ? AS recorded", (str(self.path),))
        connection.execute("BEGIN")
        made = "SELECT sql, type, name FROM recorded.sqlite_master WHERE sql IS NOT NULL"
        for sql, type_, name in connection.execute(made).fetchall():
            connection.execute(sql)
            if type_ == "table" and name not in WRITTEN:
                connection.execute(f"INSERT INTO main.{name} SELECT * FROM recorded.{name}")
        connection.execute("INSERT INTO main.head (id, epoch) SELECT id, epoch FROM recorded.head")
        connection.execute("COMMIT")
        connection.close()

    def check(self, path: Path) -> None:
        """Check that a database has the same rows.

        Raises:
            AssertionError: the rows differ.
        """
        connection = sqlite3.connect(path)
        connection.execute("ATTACH ? AS recorded", (str(self.path),))
        for name in WRITTEN:
            columns = "event, run, result, digest" if name == "head" else "*"
            for ours, theirs in (("main", "recorded"), ("recorded", "main")):
                rows = f"SELECT {columns} FROM {ours}.{name} EXCEPT SELECT {columns} FROM {theirs}.{name}"
                different = connection.execute(rows).fetchone()
                assert different is None, f"{ours}.{name} alone has {different}"
        connection.close()


def _commit(connection: sqlite3.Connection, before: Sequence[int], after: Sequence[int]) -> Commit:
    """Return the rows that were written between two places."""
    events = _inserted(connection, EVENT, "seq", before[0], after[0])
    runs = _inserted(connection, RUN, "id", before[1], after[1])
    results = _inserted(connection, RESULT, "number", before[2], after[2])
    handler = COLUMNS[RESULT][1].index("handler")
    ended = _rows(
        connection,
        f"SELECT {', '.join(f'runs.{name}' for name in (*MUTABLE, 'id'))}"
        " FROM results JOIN runs ON runs.id = results.run WHERE number > ? AND number <= ? ORDER BY number",
        before[2],
        after[2],
    )
    counts: Counter[tuple[object, int]] = Counter((run[2], WAITING) for run in runs)
    for result in results:
        counts[result[handler], WAITING] -= 1
        counts[result[handler], SUCCEEDED] += 1
    return Commit(
        events,
        runs,
        ended,
        results,
        [(*key, change) for key, change in counts.items() if change],
        tuple(after),
    )


def _inserted(connection: sqlite3.Connection, what: int, key: str, after: int, until: int) -> Rows:
    """Return the rows of a table between two numbers, as its statement takes them."""
    table, columns = COLUMNS[what]
    names = ", ".join(f'"{name}"' for name in columns)
    return _rows(connection, f"SELECT {names} FROM {table.name} WHERE {key} > ? AND {key} <= ?", after, until)


def _rows(connection: sqlite3.Connection, query: str, *parameters: int) -> Rows:
    return connection.execute(query, parameters).fetchall()


def write(path: Path, commits: Sequence[Commit]) -> float:
    """Write the commits, each synced, and return the seconds it took."""
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")
    log, limit = path.with_name(path.name + "-wal"), FIRST
    execute, many = connection.execute, connection.executemany
    began = time.perf_counter()
    for commit in commits:
        execute("BEGIN IMMEDIATE")
        for statement, rows in _statements(commit):
            if rows:
                many(statement, rows)
        execute(statements.UPDATE_HEAD, commit.head)
        execute("COMMIT")
        size = log.stat().st_size
        if size > limit:
            execute(f"PRAGMA wal_checkpoint({'TRUNCATE' if size > TRUNCATE_OVER else 'PASSIVE'})").fetchone()
            limit = max(FIRST, log.stat().st_size + STEP)
    seconds = time.perf_counter() - began
    connection.close()
    return seconds


def _statements(commit: Commit) -> Iterator[tuple[str, Rows]]:
    """Yield the statements in the order in which Busway runs them."""
    yield statements.INSERT[EVENT], commit.events
    yield statements.INSERT[RUN], commit.runs
    yield statements.UPDATE_RUN, commit.ended
    yield statements.INSERT[RESULT], commit.results
    yield statements.UPSERT_COUNT, commit.counts


def main() -> None:
    folder = Path(sys.argv[1])
    recorded, path = Recorded(folder), folder / "bare.db"
    gc.freeze()

    def once() -> dict[str, float]:
        recorded.copy_empty(path)
        seconds = write(path, recorded.commits)
        recorded.check(path)
        commits = {"commits": len(recorded.commits), "commits_of_busway": recorded.seen_of}
        return {"events_per_s": recorded.events / seconds, **commits}

    answer(once)


if __name__ == "__main__":
    main()
