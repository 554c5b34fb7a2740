"""Runs, attempts and durable names have the node that ran or holds them.

A SQLite file has one node, and the table of used tickets stays empty.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("runs", sa.Column("node", sa.INTEGER(), nullable=True))
    generation = sa.Column("generation", sa.INTEGER(), nullable=False, server_default=sa.text("1"))
    op.add_column("durables", generation)
    op.add_column("durables", sa.Column("holder", sa.INTEGER(), nullable=True))
    op.create_table(
        "tickets",
        sa.Column("id", sa.TEXT(), primary_key=True),
        sa.Column("until", sa.INTEGER(), nullable=False),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
    op.create_index("tickets_until", "tickets", ["until"])
    op.add_column("attempts", sa.Column("node", sa.INTEGER(), nullable=True))
    op.create_table(
        "node_names",
        sa.Column("id", sa.INTEGER(), primary_key=True),
        sa.Column("name", sa.TEXT(), nullable=False),
        sqlite_strict=True,
    )
