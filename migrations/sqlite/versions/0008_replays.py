"""Replays, and which runs and results belong to one."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


_NUMBERS = ("after", "before", "shadow", "state", "matched", "created", "position", "created_at")


def upgrade() -> None:
    op.create_table(
        "replays",
        sa.Column("id", sa.INTEGER(), primary_key=True),
        sa.Column("handler", sa.INTEGER(), nullable=False),
        sa.Column("types", sa.TEXT(), nullable=False),
        *(sa.Column(name, sa.INTEGER(), nullable=False) for name in _NUMBERS),
        sa.Column("finished_at", sa.INTEGER(), nullable=True),
        sa.Column("counts", sa.TEXT(), nullable=True),
        sqlite_strict=True,
    )
    op.create_index("replays_unfinished", "replays", ["id"], sqlite_where=sa.text("finished_at IS NULL"))
    op.add_column("runs", sa.Column("replay", sa.INTEGER(), nullable=True))
    op.add_column("results", sa.Column("replay", sa.INTEGER(), nullable=True))
    op.add_column("attempts", sa.Column("published", sa.TEXT(), nullable=True))
    op.create_index(
        "runs_replay", "runs", ["replay", "state", "id"], sqlite_where=sa.text("replay IS NOT NULL")
    )
