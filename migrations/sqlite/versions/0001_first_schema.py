"""The first schema: events, runs, results, handlers and keys."""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

APPLICATION_ID = 0x42757377


def upgrade() -> None:
    _logs()
    _runs()
    _attempts()
    _kept()
    op.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    op.bulk_insert(
        sa.table("head", sa.column("id"), sa.column("epoch")), [{"id": 1, "epoch": secrets.token_hex(8)}]
    )


def _logs() -> None:
    op.create_table(
        "head",
        sa.Column("id", sa.INTEGER(), primary_key=True),
        sa.Column("epoch", sa.TEXT(), nullable=False),
        sa.Column("writer", sa.INTEGER(), nullable=False, server_default=sa.text("0")),
        sa.Column("event", sa.INTEGER(), nullable=False, server_default=sa.text("0")),
        sa.Column("run", sa.INTEGER(), nullable=False, server_default=sa.text("0")),
        sa.Column("result", sa.INTEGER(), nullable=False, server_default=sa.text("0")),
        sa.Column("digest", sa.INTEGER(), nullable=False, server_default=sa.text("0")),
        sa.Column("floor", sa.INTEGER(), nullable=False, server_default=sa.text("0")),
        sa.Column("floor_digest", sa.INTEGER(), nullable=False, server_default=sa.text("0")),
        sa.CheckConstraint("id = 1"),
        sqlite_strict=True,
    )
    op.create_table(
        "events",
        sa.Column("seq", sa.INTEGER(), primary_key=True),
        sa.Column("id", sa.TEXT(), nullable=False),
        sa.Column("source", sa.TEXT(), nullable=False),
        sa.Column("type", sa.TEXT(), nullable=False),
        sa.Column("subject", sa.TEXT(), nullable=True),
        sa.Column("time", sa.INTEGER(), nullable=False),
        sa.Column("accepted_at", sa.INTEGER(), nullable=False),
        sa.Column("correlationid", sa.TEXT(), nullable=True),
        sa.Column("root", sa.INTEGER(), nullable=True),
        sa.Column("parent", sa.INTEGER(), nullable=True),
        sa.Column("datacontenttype", sa.TEXT(), nullable=True),
        sa.Column("attributes", sa.TEXT(), nullable=True),
        sa.Column("binary", sa.INTEGER(), nullable=False),
        sa.Column("data", sa.BLOB(), nullable=True),
        sqlite_strict=True,
    )
    op.create_index(
        "events_correlation", "events", ["correlationid"], sqlite_where=sa.text("correlationid IS NOT NULL")
    )
    op.create_index("events_id", "events", ["id", "source"], unique=True)
    op.create_index("events_parent", "events", ["parent"], sqlite_where=sa.text("parent IS NOT NULL"))
    op.create_index("events_source", "events", ["source"])
    op.create_index("events_subject", "events", ["subject"], sqlite_where=sa.text("subject IS NOT NULL"))
    op.create_index("events_type", "events", ["type"])
    op.create_table(
        "results",
        sa.Column("number", sa.INTEGER(), primary_key=True),
        sa.Column("run", sa.INTEGER(), nullable=False),
        sa.Column("event", sa.INTEGER(), nullable=False),
        sa.Column("handler", sa.INTEGER(), nullable=False),
        sa.Column("revision", sa.INTEGER(), nullable=False),
        sa.Column("attempt", sa.INTEGER(), nullable=False),
        sa.Column("kind", sa.INTEGER(), nullable=False),
        sa.Column("idx", sa.INTEGER(), nullable=True),
        sa.Column("time", sa.INTEGER(), nullable=False),
        sa.Column("error", sa.TEXT(), nullable=True),
        sa.Column("completes", sa.TEXT(), nullable=True),
        sa.Column("binary", sa.INTEGER(), nullable=False),
        sa.Column("data", sa.BLOB(), nullable=True),
        sqlite_strict=True,
    )


def _runs() -> None:
    op.create_table(
        "runs",
        sa.Column("id", sa.INTEGER(), primary_key=True),
        sa.Column("event", sa.INTEGER(), nullable=False),
        sa.Column("handler", sa.INTEGER(), nullable=False),
        sa.Column("root", sa.INTEGER(), nullable=False),
        sa.Column("priority", sa.INTEGER(), nullable=False),
        sa.Column("expires_at", sa.INTEGER(), nullable=True),
        sa.Column("created_at", sa.INTEGER(), nullable=False),
        sa.Column("state", sa.INTEGER(), nullable=False, server_default=sa.text("0")),
        sa.Column("counted", sa.INTEGER(), nullable=False),
        sa.Column("attempt", sa.INTEGER(), nullable=False, server_default=sa.text("0")),
        sa.Column("lost", sa.INTEGER(), nullable=False, server_default=sa.text("0")),
        sa.Column("granted", sa.INTEGER(), nullable=False, server_default=sa.text("0")),
        sa.Column("max_attempts", sa.INTEGER(), nullable=True),
        sa.Column("due", sa.INTEGER(), nullable=True),
        sa.Column("available_at", sa.INTEGER(), nullable=True),
        sa.Column("finished_at", sa.INTEGER(), nullable=True),
        sa.Column("token", sa.INTEGER(), nullable=True),
        sa.Column("revision", sa.INTEGER(), nullable=True),
        sa.Column("started_at", sa.INTEGER(), nullable=True),
        sa.Column("pool", sa.TEXT(), nullable=True),
        sa.Column("worker", sa.INTEGER(), nullable=True),
        sa.Column("cpu_time", sa.REAL(), nullable=True),
        sa.Column("wall_time", sa.REAL(), nullable=True),
        sa.Column("peak_memory", sa.INTEGER(), nullable=True),
        sa.Column("error", sa.TEXT(), nullable=True),
        sqlite_strict=True,
    )
    op.create_index("runs_due", "runs", ["due"], sqlite_where=sa.text("state < 2 AND due IS NOT NULL"))
    op.create_index("runs_ended", "runs", ["state", "id"], sqlite_where=sa.text("state >= 4"))
    op.create_index("runs_event", "runs", ["event"])
    op.create_index(
        "runs_expiring",
        "runs",
        ["expires_at"],
        sqlite_where=sa.text("state < 2 AND attempt = 0 AND expires_at IS NOT NULL"),
    )
    op.create_index("runs_handler", "runs", ["handler"])
    op.create_index("runs_running", "runs", ["id"], sqlite_where=sa.text("state = 2"))
    op.create_index(
        "runs_waiting",
        "runs",
        ["handler", sa.text("priority DESC"), "id"],
        sqlite_where=sa.text("state < 2 AND due IS NULL"),
    )


def _attempts() -> None:
    op.create_table(
        "attempts",
        sa.Column("run", sa.INTEGER(), primary_key=True),
        sa.Column("attempt", sa.INTEGER(), primary_key=True),
        sa.Column("outcome", sa.INTEGER(), nullable=False),
        sa.Column("revision", sa.INTEGER(), nullable=False),
        sa.Column("started_at", sa.INTEGER(), nullable=False),
        sa.Column("finished_at", sa.INTEGER(), nullable=False),
        sa.Column("pool", sa.TEXT(), nullable=False),
        sa.Column("worker", sa.INTEGER(), nullable=True),
        sa.Column("cpu_time", sa.REAL(), nullable=True),
        sa.Column("wall_time", sa.REAL(), nullable=True),
        sa.Column("peak_memory", sa.INTEGER(), nullable=True),
        sa.Column("error", sa.TEXT(), nullable=True),
        sa.Column("log", sa.TEXT(), nullable=True),
        sqlite_strict=True,
    )
    op.create_table(
        "trees",
        sa.Column("root", sa.INTEGER(), primary_key=True),
        sa.Column("unfinished", sa.INTEGER(), nullable=False),
        sa.Column("succeeded", sa.INTEGER(), nullable=False),
        sa.Column("cancelled", sa.INTEGER(), nullable=False),
        sa.Column("dead", sa.INTEGER(), nullable=False),
        sqlite_strict=True,
    )
    op.create_table(
        "counts",
        sa.Column("handler", sa.INTEGER(), primary_key=True),
        sa.Column("state", sa.INTEGER(), primary_key=True),
        sa.Column("n", sa.INTEGER(), nullable=False),
        sqlite_with_rowid=False,
        sqlite_strict=True,
    )
    op.create_table(
        "last_errors",
        sa.Column("handler", sa.INTEGER(), primary_key=True),
        sa.Column("error", sa.TEXT(), nullable=False),
        sqlite_strict=True,
    )


def _kept() -> None:
    op.create_table(
        "handlers",
        sa.Column("id", sa.INTEGER(), primary_key=True),
        sa.Column("name", sa.TEXT(), nullable=False),
        sa.Column("revision", sa.INTEGER(), nullable=False),
        sa.Column("declared", sa.TEXT(), nullable=True),
        sa.Column("overrides", sa.TEXT(), nullable=False),
        sa.Column("file_digest", sa.TEXT(), nullable=False),
        sa.Column("missing", sa.INTEGER(), nullable=False),
        sa.Column("deleted", sa.INTEGER(), nullable=False),
        sa.Column("created_at", sa.INTEGER(), nullable=False),
        sa.Column("updated_at", sa.INTEGER(), nullable=False),
        sa.UniqueConstraint("name"),
        sqlite_strict=True,
    )
    op.create_table(
        "handler_revisions",
        sa.Column("handler", sa.INTEGER(), primary_key=True),
        sa.Column("revision", sa.INTEGER(), primary_key=True),
        sa.Column("created_at", sa.INTEGER(), nullable=False),
        sa.Column("fields", sa.TEXT(), nullable=False),
        sa.Column("file_digest", sa.TEXT(), nullable=False),
        sqlite_strict=True,
    )
    op.create_table(
        "keys",
        sa.Column("id", sa.INTEGER(), primary_key=True),
        sa.Column("name", sa.TEXT(), nullable=False),
        sa.Column("digest", sa.BLOB(), nullable=False),
        sa.Column("scopes", sa.TEXT(), nullable=False),
        sa.Column("created_at", sa.INTEGER(), nullable=False),
        sa.Column("expires_at", sa.INTEGER(), nullable=True),
        sa.Column("revoked_at", sa.INTEGER(), nullable=True),
        sa.UniqueConstraint("digest"),
        sqlite_strict=True,
    )
