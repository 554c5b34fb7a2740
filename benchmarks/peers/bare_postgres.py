"""Writes the same rows in the same commits as Busway, with only psycopg.

    python -m benchmarks.peers.bare_postgres URL

URL is a database that Busway wrote; its table `commits` has the numbers that each commit reached. The rows
are read before the measurement; each round truncates the tables and writes them again. The statements are
Busway's own, sent in one pipeline a commit. Commits that assign runs to the node are written without the
changes of these runs, because the rows do not show them any more.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import psycopg
from busway.gateway.store.core.transaction import COLUMNS, EVENT, RESULT, RUN, SETTLED
from busway.gateway.store.postgres.statements import INSERT, LOCK, UPDATE_SETTLED

from benchmarks.peers.answering import answer

HEAD = "number, event, run, result, digest, node, rules, counts, changes"
_INSERT_HEAD = f"INSERT INTO commits ({HEAD}) VALUES (%b, %b, %b, %b, %b, %b, %b, %b::bigint[], %b)"
WRITTEN = {EVENT: ("events", "seq", 1), RUN: ("runs", "id", 2), RESULT: ("results", "number", 3)}

Statement = tuple[str, Sequence[Any]]


@dataclass(frozen=True)
class Recorded:
    """What Busway wrote.

    Attributes:
        commits: the statements of each commit, with their parameters.
        events: how many events these are.
    """

    commits: list[list[Statement]]
    events: int


def recorded(connection: psycopg.Connection[Any]) -> Recorded:
    """Read what each commit wrote."""
    heads = connection.execute(f"SELECT {HEAD} FROM commits ORDER BY number").fetchall()
    commits = [_commit(connection, before, after) for before, after in pairwise(heads)]
    return Recorded(commits, heads[-1][1] - heads[0][1])


def _commit(
    connection: psycopg.Connection[Any], before: Sequence[Any], after: Sequence[Any]
) -> list[Statement]:
    found: list[Statement] = []
    for what, (table, key, place) in WRITTEN.items():
        if before[place] < after[place]:
            names = ", ".join(f'"{name}"' for name in COLUMNS[what][1])
            query = f"SELECT {names} FROM {table} WHERE {key} > %s AND {key} <= %s ORDER BY {key}"
            rows = connection.execute(query, (before[place], after[place])).fetchall()
            found.append((INSERT[what], [list(column) for column in zip(*rows, strict=True)]))
    if before[3] < after[3]:
        names = ", ".join(f'runs."{name}"' for name in (*SETTLED, "id"))
        ended = "results JOIN runs ON runs.id = results.run WHERE number > %s AND number <= %s"
        query = f"SELECT {names} FROM {ended}"
        rows = connection.execute(query, (before[3], after[3])).fetchall()
        found.append((UPDATE_SETTLED, [list(column) for column in zip(*rows, strict=True)]))
    return [*found, (_INSERT_HEAD, after)]


def write(connection: psycopg.Connection[Any], commits: Sequence[Sequence[Statement]]) -> float:
    """Write the commits, each synced, and return the seconds it took."""
    began = time.perf_counter()
    for commit in commits:
        with connection.pipeline():
            connection.execute("BEGIN")
            connection.execute(LOCK)
            for statement, parameters in commit:
                connection.execute(statement, parameters, prepare=True)
            connection.execute("COMMIT")
    return time.perf_counter() - began


def main() -> None:
    connection = psycopg.connect(sys.argv[1], autocommit=True, options="-c search_path=busway")
    found = recorded(connection)
    gc.freeze()

    def once() -> dict[str, float]:
        connection.execute("TRUNCATE events, runs, results, commits")
        connection.execute("CHECKPOINT")
        seconds = write(connection, found.commits)
        (stored,) = connection.execute(
            "SELECT count(*) FROM results JOIN events ON event = seq"
        ).fetchone() or (0,)
        assert stored == found.events, f"{found.events} events brought {stored} results"
        return {"end_to_end_per_s": found.events / seconds, "commits": len(found.commits)}

    answer(once)


if __name__ == "__main__":
    main()
