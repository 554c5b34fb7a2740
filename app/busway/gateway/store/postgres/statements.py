"""The writer's statements. Parameters are arrays, one for each column, in the order given here."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from busway.gateway.store.core.schema import runs, trees
from busway.gateway.store.core.transaction import COLUMNS, MUTABLE, SETTLED

ONE_WRITER = 0x42757377 << 8  # the advisory lock of the transaction that writes
IN_USE = ONE_WRITER + 1  # an advisory lock: nodes share it, an import has it alone
MIGRATION = ONE_WRITER + 2  # the advisory lock of a migration


def _type(column: sa.Column[object]) -> str:
    kind = getattr(column.type, "impl_instance", column.type)  # of a type that SQLAlchemy decorates
    if isinstance(kind, sa.Integer):
        return "bigint"
    if isinstance(kind, sa.Double):
        return "double precision"
    return "bytea" if isinstance(kind, sa.LargeBinary) else "text"


def _arrays(table: sa.Table, columns: Sequence[str]) -> str:
    return ", ".join(f"%b::{_type(table.c[name])}[]" for name in columns)


def insert(table: sa.Table, columns: Sequence[str]) -> str:
    """Return the statement that inserts rows with these columns."""
    names = ", ".join(f'"{name}"' for name in columns)
    return f"INSERT INTO {table.name} ({names}) SELECT * FROM unnest({_arrays(table, columns)})"  # noqa: S608


def _update_runs(columns: Sequence[str]) -> str:
    changes = ", ".join(f'"{name}" = new."{name}"' for name in columns)
    names = ", ".join(f'"{name}"' for name in (*columns, "id"))
    arrays = _arrays(runs, (*columns, "id"))
    return f"UPDATE runs SET {changes} FROM unnest({arrays}) AS new({names}) WHERE runs.id = new.id"  # noqa: S608


INSERT = {what: insert(table, columns) for what, (table, columns) in COLUMNS.items()}
UPDATE_RUN = _update_runs(MUTABLE)
UPDATE_SETTLED = _update_runs(SETTLED)
_RUN = ", ".join(f'"{name}"' for name in (*MUTABLE, "id", "event", "handler", "root", "replay"))
SELECT_RUNS = f"SELECT {_RUN} FROM runs WHERE id = ANY (%b::bigint[])"  # noqa: S608 - made of constants
# Equal, said so that only the index of both columns can be used: on an empty table that of the source costs
# less.
SELECT_SEEN = (
    "SELECT events.id, events.source, events.seq FROM unnest(%b::text[], %b::text[]) AS wanted(id, source) "
    "JOIN events ON (events.id, events.source) >= (wanted.id, wanted.source) "
    "AND (events.id, events.source) <= (wanted.id, wanted.source)"
)
_TREE = tuple(column.name for column in trees.columns)
UPSERT_TREE = (
    insert(trees, _TREE)
    + " ON CONFLICT (root) DO UPDATE SET "
    + ", ".join(f"{name} = excluded.{name}" for name in _TREE[1:])
)
DELETE_TREES = "DELETE FROM trees WHERE root = ANY (%b::bigint[])"
SELECT_TREE = f"SELECT {', '.join(_TREE)} FROM trees WHERE root = %b"  # noqa: S608
INSERT_ERRORS = (
    "INSERT INTO last_errors (handler, number, error) "
    "SELECT new.handler, %b, new.error FROM unnest(%b::bigint[], %b::text[]) AS new(handler, error) "
    "ON CONFLICT (handler, number) DO UPDATE SET error = excluded.error"
)
# Whatever the server's default is. That transactions only read by default is respected: it says not to write.
BEGIN = "BEGIN ISOLATION LEVEL READ COMMITTED"
# Another process, on another server, too, may have the same number.
SESSION = "SELECT pid, backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()"
END_SESSION = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE pid = %s AND backend_start = %s AND usename = user
"""
IS_OPEN = "SELECT EXISTS (SELECT FROM nodes WHERE id = %s AND closed_at IS NULL)"
LOCK = f"SELECT pg_advisory_xact_lock({ONE_WRITER})"
_HEAD = "number, event, run, result, digest"
SELECT_HEAD = f"SELECT {_HEAD} FROM commits ORDER BY number DESC LIMIT 1"  # noqa: S608 - made of constants
SELECT_STATE = f"""
    SELECT {_HEAD}, rules, (SELECT ARRAY[term, node] FROM terms ORDER BY term DESC LIMIT 1),
        ARRAY(SELECT id FROM nodes WHERE closed_at IS NULL)
    FROM commits ORDER BY number DESC LIMIT 1
"""  # noqa: S608 - as above
SELECT_COMMIT = f"SELECT {_HEAD} FROM commits WHERE number = %b"  # noqa: S608 - as above
INSERT_HEAD = """
    INSERT INTO commits (number, event, run, result, digest, node, rules, counts, changes)
    VALUES (%b, %b, %b, %b, %b, %b, %b, %b::bigint[], %b)
"""
SELECT_LOST = """
    SELECT id FROM runs
    WHERE state = 2 AND NOT EXISTS (SELECT FROM nodes WHERE nodes.id = runs.node AND closed_at IS NULL)
    ORDER BY id
"""
SELECT_SECRET = "SELECT secret FROM cell"  # noqa: S105 - a statement
NOTIFY = "SELECT pg_notify(%b, %b)"
# PostgreSQL makes room in a queue that was full only when it is asked how full it is.
MAKE_ROOM_FOR_NOTIFY = "SELECT pg_notification_queue_usage()"
INSERT_LINGERING = (
    "INSERT INTO lingering (run, node, partitionkey) SELECT id, %b, partitionkey FROM runs WHERE id = %b "
    "ON CONFLICT (run) DO UPDATE SET node = excluded.node, partitionkey = excluded.partitionkey"
)
DELETE_LINGERING = "DELETE FROM lingering WHERE run = ANY (%b::bigint[])"
CLEAR_LINGERING = (
    "DELETE FROM lingering WHERE NOT EXISTS "
    "(SELECT FROM nodes WHERE nodes.id = lingering.node AND closed_at IS NULL)"
)
SELECT_TERM = "SELECT term, node FROM terms ORDER BY term DESC LIMIT 1"
INSERT_TERM = "INSERT INTO terms (term, node, began_at) VALUES (%b, %b, %b)"
CLOSE_NODE = "UPDATE nodes SET closed_at = %b WHERE id = %b AND beat = %b AND closed_at IS NULL"
INSERT_COUNTS = "INSERT INTO counts (number, counts) VALUES (%b, %b::bigint[])"
CLEAR_PARTITION_KEY = (
    "UPDATE runs SET partitionkey = NULL WHERE id = ANY (%b::bigint[]) AND partitionkey IS NOT NULL"
)
SELECT_RESULTS_AFTER = "SELECT number, run, attempt, idx, completes FROM results WHERE number > %b"
DELETE_RESULTS = "DELETE FROM results WHERE number <= %b"
MOVE_FLOOR = "UPDATE cell SET floor = %b, floor_digest = %b"
RESTORE_CELL = "UPDATE cell SET epoch = %b, floor = %b, floor_digest = %b"
RESTORE_IDS = tuple(
    f"SELECT setval(pg_get_serial_sequence('{table}', 'id'), coalesce(max(id), 0) + 1, false) FROM {numbered}"  # noqa: S608
    for table, numbered in (("handlers", "handlers"), ("keys", "keys"), ("nodes", "node_names"))
)
DELETE_RUNS = "DELETE FROM runs WHERE event = ANY (%b::bigint[]) RETURNING id, handler, state"
DELETE_ATTEMPTS = "DELETE FROM attempts WHERE run = ANY (%b::bigint[])"
DELETE_EVENTS = "DELETE FROM events WHERE seq = ANY (%b::bigint[])"
# Rows that nobody reads any more: old commits, counts that newer ones replace, errors that are not newest.
TIDY = (
    "DELETE FROM commits WHERE number < %(oldest)s",
    "DELETE FROM counts WHERE number < (SELECT max(number) FROM counts)",
    "DELETE FROM terms WHERE term < (SELECT max(term) FROM terms) - 1000",
    """
    DELETE FROM last_errors AS old WHERE number < %(oldest)s
    AND EXISTS (SELECT FROM last_errors WHERE handler = old.handler AND number > old.number)
    """,
)
