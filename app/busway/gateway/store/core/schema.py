"""The tables that all databases have. Columns store codes instead of repeated words.

Partial indexes contain only unfinished rows. Times are microseconds since 1970. Each driver keeps the newest
numbers, the numbers of runs and the newest errors in tables of its own.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

from busway.domain.replay import ReplayState
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
REPLAY_STATES = tuple(ReplayState)
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


class AnyText(sa.TypeDecorator[str]):
    """Text that may contain NUL characters, which text of PostgreSQL cannot."""

    impl = sa.LargeBinary
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        """Return the type of the column: bytes on PostgreSQL."""
        return dialect.type_descriptor(sa.TEXT() if dialect.name == "sqlite" else sa.LargeBinary())

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> Any:
        """Return the value as it is stored."""
        return value if value is None or dialect.name == "sqlite" else value.encode()

    def process_result_value(self, value: Any, dialect: sa.Dialect) -> str | None:  # noqa: ARG002
        """Return the text of a stored value."""
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
    integer("depth", null=True),  # null: 0
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
    integer("node", null=True),  # that has the attempt, if the run is running or its first one succeeded
    integer("replay", null=True),  # that created it, negative: a shadow replay; null: an event did
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

sa.Index("runs_replay", runs.c.replay, runs.c.state, runs.c.id, sqlite_where=sa.text("replay IS NOT NULL"))

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
    _column("log", AnyText(), null=True),
    integer("node", null=True),
    text("published", null=True),  # by an attempt of a shadow replay, and not stored
    sqlite_strict=True,
)

node_names = sa.Table("node_names", metadata, key("id"), text("name"), sqlite_strict=True)
"""The name of each node that ever used the database. Several may have the same name."""

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
    integer("replay", null=True),  # as in `runs`
    sqlite_strict=True,
)

replays = sa.Table(
    "replays",
    metadata,
    key("id"),
    integer("handler"),
    text("types"),
    integer("after"),
    integer("before"),
    integer("shadow"),
    integer("state"),  # of `REPLAY_STATES`
    integer("matched"),
    integer("created"),
    integer("position"),  # events up to this number are done
    integer("created_at"),
    integer("finished_at", null=True),  # null: it has unfinished runs, or will create more
    text("counts", null=True),  # of its runs by state, when it finished
    sqlite_strict=True,
)
sa.Index("replays_unfinished", replays.c.id, sqlite_where=sa.text("finished_at IS NULL"))

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
    text("secrets", null=True),  # sign what is sent to its URL; null: none
    text("pause", null=True),  # null: a client paused it, or it is not paused
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

handler_files = sa.Table(
    "handler_files",
    metadata,
    sa.Column("digest", sa.TEXT, primary_key=True),
    integer("size"),
    text("text", null=True),  # null: too long, or no text
    integer("seen_at"),  # when a node last had it
    sqlite_strict=True,
)
"""The source of handler code, by `file_digest`."""

breakers = sa.Table("breakers", metadata, key("handler"), text("state"), sqlite_strict=True)
"""What breakers count of the handlers that have one, and whose newest attempts failed."""

durables = sa.Table(
    "durables",
    metadata,
    sa.Column("name", sa.TEXT, primary_key=True),
    integer("number"),
    integer("digest"),
    integer("created_at"),
    integer("acknowledged_at", null=True),
    integer("key", null=True),
    integer("generation", default="1"),
    integer("holder", null=True),  # the node that has its subscription, if several use the database
    text("types", null=True),  # JSON: the type patterns of its creator
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

producers = sa.Table(
    "producers",
    metadata,
    sa.Column("id", sa.TEXT, primary_key=True),
    integer("lines"),  # that were taken
    integer("accepted"),
    integer("duplicates"),
    integer("rejected"),
    integer("created_at"),
    integer("updated_at"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
"""How far each NDJSON upload with a producer id has come."""
sa.Index("producers_updated", producers.c.updated_at)

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
    text("types", null=True),
    integer("last_used_at", null=True),
    sa.UniqueConstraint("digest"),
    sqlite_strict=True,
)

sources = sa.Table(
    "sources",
    metadata,
    sa.Column("name", sa.TEXT, primary_key=True),
    text("kind"),
    text("secret"),
    text("previous_secret", null=True),
    integer("previous_until", null=True),
    text("fields"),
    integer("created_at"),
    integer("updated_at"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
"""Sources of webhooks. Their secrets are readable, because signatures are checked with them."""

tickets = sa.Table(
    "tickets",
    metadata,
    sa.Column("id", sa.TEXT, primary_key=True),
    integer("until"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)
"""Tickets that were used, until they have expired. Only databases with several nodes need it."""
sa.Index("tickets_until", tickets.c.until)

schedules = sa.Table(
    "schedules",
    metadata,
    sa.Column("name", sa.TEXT, primary_key=True),
    integer("version"),
    text("cron", null=True),
    text("every", null=True),
    text("timezone"),
    text("event"),
    text("catch_up"),
    integer("paused"),
    text("description"),
    integer("anchor"),
    integer("after"),
    integer("last_fired_at", null=True),
    integer("created_at"),
    integer("updated_at"),
    sqlite_strict=True,
    sqlite_with_rowid=False,
)

idempotency_keys = sa.Table(
    "idempotency_keys",
    metadata,
    key("owner"),  # the API key that sent it, 0: there were none
    sa.Column("name", sa.TEXT, primary_key=True),
    integer("number"),  # counts the keys of one owner
    _column("digest", _BYTES),  # of the request
    _column("receipts", _BYTES),
    integer("created_at"),
    sqlite_strict=True,
)
"""The `Idempotency-Key` of each publication that had one, with its receipts."""
sa.Index("idempotency_keys_number", idempotency_keys.c.owner, idempotency_keys.c.number)
sa.Index("idempotency_keys_created", idempotency_keys.c.created_at)

audit = sa.Table(
    "audit",
    metadata,
    key("id"),
    integer("time"),
    text("actor"),
    text("name", null=True),
    text("address", null=True),
    text("action"),
    text("object", null=True),
    text("details", null=True),
    integer("node", null=True),  # that wrote it; null: a command did
    sqlite_strict=True,
)
"""Who changed what."""
sa.Index("audit_time", audit.c.time)
sa.Index("audit_actor", audit.c.actor, audit.c.id)
sa.Index("audit_action", audit.c.action, audit.c.id)
sa.Index("audit_object", audit.c.object, audit.c.id)

imports = sa.Table(
    "imports", metadata, sa.Column("source", sa.TEXT, primary_key=True), integer("pages"), sqlite_strict=True
)
"""The import that is under way: the database cannot be used before it has ended."""
