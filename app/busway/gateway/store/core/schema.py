"""The tables that all databases have. Columns store codes instead of repeated words.

Partial indexes contain only unfinished rows. Times are microseconds since 1970. Each driver keeps the newest
numbers, the numbers of runs and the newest errors in tables of its own.
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
WAITING = "state < 2"  # a partial index is used only for this exact condition
UNSTARTED = "(attempt = 0)"  # sorts runs that had an attempt before the others
HAS_KEY = f"{WAITING} AND partitionkey IS NOT NULL"
ALONE, COUNTED, OUTSIDE = 0, 1, 2  # how the root event counts a run

metadata = sa.MetaData()


_INTEGER = sa.BigInteger().with_variant(sa.INTEGER(), "sqlite")
_REAL: sa.Double[float] = sa.Double().with_variant(sa.REAL(), "sqlite")
_BYTES = sa.LargeBinary().with_variant(sa.BLOB(), "sqlite")


class _AnyText(sa.TypeDecorator[str]):
    """Text that may contain NUL characters, which text of PostgreSQL cannot."""

    impl = sa.LargeBinary
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        return dialect.type_descriptor(sa.TEXT() if dialect.name == "sqlite" else sa.LargeBinary())

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> Any:
        return value if value is None or dialect.name == "sqlite" else value.encode()

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> str | None:  # noqa: ARG002
        return value.decode() if isinstance(value, bytes) else value


def _column(
    name: str, kind: sa.types.TypeEngine[Any], *, null: bool = False, default: str | None = None
) -> sa.Column[Any]:
    return sa.Column(name, kind, nullable=null, server_default=sa.text(default) if default else None)


def integer(name: str, *, null: bool = False, default: str | None = None) -> sa.Column[Any]:
    """Return a column of whole numbers of 64 bits."""
    return _column(name, _INTEGER, null=null, default=default)


def text(name: str, *, null: bool = False) -> sa.Column[Any]:
    """Return a column of text."""
    return _column(name, sa.TEXT(), null=null)


def key(name: str) -> sa.Column[int]:
    """Return a column of the primary key."""
    return sa.Column(name, _INTEGER, primary_key=True)


events = sa.Table(
    "events",
    metadata,
    key("seq"),
    text("id"),
    text("source"),
    text("type"),
    text("subject", null=True),
    integer("time"),
    integer("accepted_at"),
    text("correlationid", null=True),  # null: its own id
    integer("root", null=True),  # null: itself
    integer("parent", null=True),
    text("datacontenttype", null=True),
    text("attributes", null=True),
    integer("binary"),
    _column("data", _BYTES, null=True),
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
    key("id"),
    integer("event"),
    integer("handler"),
    integer("root"),
    integer("priority"),
    integer("expires_at", null=True),
    integer("created_at"),
    integer("state", default="0"),
    integer("counted"),
    integer("attempt", default="0"),
    integer("lost", default="0"),
    integer("granted", default="0"),
    integer("max_attempts", null=True),
    integer("due", null=True),
    integer("available_at", null=True),
    integer("finished_at", null=True),
    integer("token", null=True),
    integer("revision", null=True),
    integer("started_at", null=True),
    text("pool", null=True),
    integer("worker", null=True),
    _column("cpu_time", _REAL, null=True),
    _column("wall_time", _REAL, null=True),
    integer("peak_memory", null=True),
    text("error", null=True),
    text("partitionkey", null=True),  # null: not ordered by a key
    integer("last_result", null=True),  # of an ended run: it has no result above this number
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
    key("run"),
    key("attempt"),
    integer("outcome"),
    integer("revision"),
    integer("started_at"),
    integer("finished_at"),
    text("pool"),
    integer("worker", null=True),
    _column("cpu_time", _REAL, null=True),
    _column("wall_time", _REAL, null=True),
    integer("peak_memory", null=True),
    text("error", null=True),
    _column("log", _AnyText(), null=True),
    sqlite_strict=True,
)

results = sa.Table(
    "results",
    metadata,
    key("number"),
    integer("run"),
    integer("event"),
    integer("handler"),
    integer("revision"),
    integer("attempt"),
    integer("kind"),
    integer("idx", null=True),
    integer("time"),
    text("error", null=True),
    text("completes", null=True),
    integer("binary"),
    _column("data", _BYTES, null=True),
    sqlite_strict=True,
)

trees = sa.Table(
    "trees",
    metadata,
    key("root"),
    integer("unfinished"),
    integer("succeeded"),
    integer("cancelled"),
    integer("dead"),
    sqlite_strict=True,
)

handlers = sa.Table(
    "handlers",
    metadata,
    key("id"),
    text("name"),
    integer("revision"),
    text("declared", null=True),
    text("overrides"),
    text("file_digest"),
    integer("missing"),
    integer("deleted"),
    integer("created_at"),
    integer("updated_at"),
    sa.UniqueConstraint("name"),
    sqlite_strict=True,
)

handler_revisions = sa.Table(
    "handler_revisions",
    metadata,
    key("handler"),
    key("revision"),
    integer("created_at"),
    text("fields"),
    text("file_digest"),
    sqlite_strict=True,
)

durables = sa.Table(
    "durables",
    metadata,
    sa.Column("name", sa.TEXT, primary_key=True),
    integer("number"),
    integer("digest"),
    integer("created_at"),
    integer("acknowledged_at", null=True),
    integer("key", null=True),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

keys = sa.Table(
    "keys",
    metadata,
    key("id"),
    text("name"),
    _column("digest", _BYTES),
    text("scopes"),
    integer("created_at"),
    integer("expires_at", null=True),
    integer("revoked_at", null=True),
    sa.UniqueConstraint("digest"),
    sqlite_strict=True,
)

imports = sa.Table(
    "imports", metadata, sa.Column("source", sa.TEXT, primary_key=True), integer("pages"), sqlite_strict=True
)
"""The import that is under way: the database cannot be used before it has ended."""
