"""Producers: how many lines of each NDJSON upload were taken."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    numbers = ("lines", "accepted", "duplicates", "rejected", "created_at", "updated_at")
    op.create_table(
        "producers",
        sa.Column("id", sa.TEXT(), primary_key=True),
        *(sa.Column(name, sa.INTEGER(), nullable=False) for name in numbers),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index("producers_updated", "producers", ["updated_at"])
