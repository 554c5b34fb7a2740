"""Schedules: what publishes an event again and again, by the clock."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.create_table(
        "schedules",
        sa.Column("name", sa.TEXT(), primary_key=True),
        sa.Column("version", sa.INTEGER(), nullable=False),
        sa.Column("cron", sa.TEXT(), nullable=True),
        sa.Column("every", sa.TEXT(), nullable=True),
        sa.Column("timezone", sa.TEXT(), nullable=False),
        sa.Column("event", sa.TEXT(), nullable=False),
        sa.Column("catch_up", sa.TEXT(), nullable=False),
        sa.Column("paused", sa.INTEGER(), nullable=False),
        sa.Column("description", sa.TEXT(), nullable=False),
        sa.Column("anchor", sa.INTEGER(), nullable=False),
        sa.Column("after", sa.INTEGER(), nullable=False),
        sa.Column("last_fired_at", sa.INTEGER(), nullable=True),
        sa.Column("created_at", sa.INTEGER(), nullable=False),
        sa.Column("updated_at", sa.INTEGER(), nullable=False),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
