"""The tables. Columns store codes instead of repeated words. Partial indexes contain only unfinished rows.

Times are microseconds since 1970. The only row of `head` has the newest numbers of events, runs and results.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from busway.domain.result import Kind
from busway.domain.run import Outcome, RunState

STATES = (
    RunState.AVAILABLE,
    RunState.RETRYABLE,
    RunState.RUNNING,
    RunState.SUCCEEDED,
    RunState.CANCELLED,
    RunState.DEAD,
)
KINDS = tuple(Kind)
OUTCOMES = tuple(Outcome)
STATE_CODES = {state: code for code, state in enumerate(STATES)}
KIND_CODES = {kind: code for code, kind in enumerate(KINDS)}
OUTCOME_CODES = {outcome: code for code, outcome in enumerate(OUTCOMES)}

RUNNING, SUCCEEDED, CANCELLED, DEAD = 2, 3, 4, 5
WAITING = "state < 2"  # SQLite uses a partial index only for this exact condition
UNSTARTED = "(attempt = 0)"  # sorts runs that had an attempt before the others
HAS_KEY = f"{WAITING} AND partitionkey IS NOT NULL"
ALONE, COUNTED, OUTSIDE = 0, 1, 2  # how the root event counts a run

APPLICATION_ID = 0x42757377  # "Busw": identifies a Busway database

metadata = sa.MetaData()


def _column(
    name: str, kind: type[sa.types.TypeEngine[Any]], *, null: bool = False, default: str | None = None
) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=null, server_default=sa.text(default) if default else None)


def _integer(name: str, *, null: bool = False, default: str | None = None) -> sa.Column[Any]:
    return _column(name, sa.INTEGER, null=null, default=default)


def _key(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.INTEGER, primary_key=True)


head = sa.Table(
    "head",
    metadata,
    _key("id"),
    _column("epoch", sa.TEXT),
    _integer("writer", default="0"),
    _integer("event", default="0"),
    _integer("run", default="0"),
    _integer("result", default="0"),
    _integer("digest", default="0"),
    _integer("floor", default="0"),
    _integer("floor_digest", default="0"),
    sa.CheckConstraint("id = 1"),
    sqlite_strict=True,
)

events = sa.Table(
    "events",
    metadata,
    _key("seq"),
    _column("id", sa.TEXT),
    _column("source", sa.TEXT),
    _column("type", sa.TEXT),
    _column("subject", sa.TEXT, null=True),
    _integer("time"),
    _integer("accepted_at"),
    _column("correlationid", sa.TEXT, null=True),  # null: its own id
    _integer("root", null=True),  # null: itself
    _integer("parent", null=True),
    _column("datacontenttype", sa.TEXT, null=True),
    _column("attributes", sa.TEXT, null=True),
    _integer("binary"),
    _column("data", sa.BLOB, null=True),
    sqlite_strict=True,
)
sa.Index("events_id", events.c.id, events.c.source, unique=True)
sa.Index("events_type", events.c.type)
sa.Index("events_source", events.c.source)
sa.Index("events_subject", events.c.subject, sqlite_where=sa.text("subject IS NOT NULL"))
sa.Index("events_correlation", events.c.correlationid, sqlite_where=sa.text("correlationid IS NOT NULL"))
sa.Index("events_parent", events.c.parent, sqlite_where=sa.text("parent IS NOT NULL"))

runs = sa.Table(
    "runs",
    metadata,
    _key("id"),
    _integer("event"),
    _integer("handler"),
    _integer("root"),
    _integer("priority"),
    _integer("expires_at", null=True),
    _integer("created_at"),
    _integer("state", default="0"),
    _integer("counted"),
    _integer("attempt", default="0"),
    _integer("lost", default="0"),
    _integer("granted", default="0"),
    _integer("max_attempts", null=True),
    _integer("due", null=True),
    _integer("available_at", null=True),
    _integer("finished_at", null=True),
    _integer("token", null=True),
    _integer("revision", null=True),
    _integer("started_at", null=True),
    _column("pool", sa.TEXT, null=True),
    _integer("worker", null=True),
    _column("cpu_time", sa.REAL, null=True),
    _column("wall_time", sa.REAL, null=True),
    _integer("peak_memory", null=True),
    _column("error", sa.TEXT, null=True),
    _column("partitionkey", sa.TEXT, null=True),  # null: not ordered by a key
    _integer("last_result", null=True),  # of an ended run: it has no result above this number
    sqlite_strict=True,
)
sa.Index("runs_event", runs.c.event)
sa.Index("runs_handler", runs.c.handler)
sa.Index(
    "runs_waiting",
    runs.c.handler,
    runs.c.priority.desc(),
    runs.c.id,
    runs.c.partitionkey,
    sqlite_where=sa.text(f"{WAITING} AND due IS NULL"),
)
sa.Index("runs_late", runs.c.handler, runs.c.due, sqlite_where=sa.text(f"{WAITING} AND due IS NOT NULL"))
sa.Index(
    "runs_in_line",
    runs.c.handler,
    runs.c.partitionkey,
    sa.text(UNSTARTED),
    runs.c.id,
    sqlite_where=sa.text(HAS_KEY),
)
sa.Index("runs_due", runs.c.due, sqlite_where=sa.text(f"{WAITING} AND due IS NOT NULL"))
sa.Index("runs_running", runs.c.id, sqlite_where=sa.text("state = 2"))
sa.Index("runs_ended", runs.c.state, runs.c.id, sqlite_where=sa.text("state >= 4"))
sa.Index(
    "runs_expiring",
    runs.c.expires_at,
    sqlite_where=sa.text(f"{WAITING} AND attempt = 0 AND expires_at IS NOT NULL"),
)

attempts = sa.Table(
    "attempts",
    metadata,
    _key("run"),
    _key("attempt"),
    _integer("outcome"),
    _integer("revision"),
    _integer("started_at"),
    _integer("finished_at"),
    _column("pool", sa.TEXT),
    _integer("worker", null=True),
    _column("cpu_time", sa.REAL, null=True),
    _column("wall_time", sa.REAL, null=True),
    _integer("peak_memory", null=True),
    _column("error", sa.TEXT, null=True),
    _column("log", sa.TEXT, null=True),
    sqlite_strict=True,
)

results = sa.Table(
    "results",
    metadata,
    _key("number"),
    _integer("run"),
    _integer("event"),
    _integer("handler"),
    _integer("revision"),
    _integer("attempt"),
    _integer("kind"),
    _integer("idx", null=True),
    _integer("time"),
    _column("error", sa.TEXT, null=True),
    _column("completes", sa.TEXT, null=True),
    _integer("binary"),
    _column("data", sa.BLOB, null=True),
    sqlite_strict=True,
)

trees = sa.Table(
    "trees",
    metadata,
    _key("root"),
    _integer("unfinished"),
    _integer("succeeded"),
    _integer("cancelled"),
    _integer("dead"),
    sqlite_strict=True,
)

counts = sa.Table(
    "counts",
    metadata,
    _key("handler"),
    _key("state"),
    _integer("n"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

last_errors = sa.Table(
    "last_errors", metadata, _key("handler"), _column("error", sa.TEXT), sqlite_strict=True
)

handlers = sa.Table(
    "handlers",
    metadata,
    _key("id"),
    _column("name", sa.TEXT),
    _integer("revision"),
    _column("declared", sa.TEXT, null=True),
    _column("overrides", sa.TEXT),
    _column("file_digest", sa.TEXT),
    _integer("missing"),
    _integer("deleted"),
    _integer("created_at"),
    _integer("updated_at"),
    sa.UniqueConstraint("name"),
    sqlite_strict=True,
)

handler_revisions = sa.Table(
    "handler_revisions",
    metadata,
    _key("handler"),
    _key("revision"),
    _integer("created_at"),
    _column("fields", sa.TEXT),
    _column("file_digest", sa.TEXT),
    sqlite_strict=True,
)

durables = sa.Table(
    "durables",
    metadata,
    sa.Column("name", sa.TEXT, primary_key=True),
    _integer("number"),
    _integer("digest"),
    _integer("created_at"),
    _integer("acknowledged_at", null=True),
    _integer("key", null=True),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

keys = sa.Table(
    "keys",
    metadata,
    _key("id"),
    _column("name", sa.TEXT),
    _column("digest", sa.BLOB),
    _column("scopes", sa.TEXT),
    _integer("created_at"),
    _integer("expires_at", null=True),
    _integer("revoked_at", null=True),
    sa.UniqueConstraint("digest"),
    sqlite_strict=True,
)
