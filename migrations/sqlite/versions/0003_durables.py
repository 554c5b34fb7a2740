"""Durable subscriptions: the position up to which each is acknowledged."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "durables",
        sa.Column("name", sa.TEXT(), primary_key=True),
        sa.Column("number", sa.INTEGER(), nullable=False),
        sa.Column("digest", sa.INTEGER(), nullable=False),
        sa.Column("created_at", sa.INTEGER(), nullable=False),
        sa.Column("acknowledged_at", sa.INTEGER(), nullable=True),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
