"""Runs have a partition key. Indexes find waiting runs by key, and late runs by handler."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.add_column("runs", sa.Column("partitionkey", sa.TEXT(), nullable=True))
    op.execute(
        "UPDATE runs SET partitionkey = (SELECT json_extract(attributes, '$.partitionkey')"
        " FROM events WHERE seq = runs.event) WHERE state <= 2"
    )
    op.drop_index("runs_waiting", "runs")
    op.create_index(
        "runs_waiting",
        "runs",
        ["handler", sa.text("priority DESC"), "id", "partitionkey"],
        sqlite_where=sa.text("state < 2 AND due IS NULL"),
    )
    op.create_index(
        "runs_late", "runs", ["handler", "due"], sqlite_where=sa.text("state < 2 AND due IS NOT NULL")
    )
    op.create_index(
        "runs_in_line",
        "runs",
        ["handler", "partitionkey", sa.text("(attempt = 0)"), "id"],
        sqlite_where=sa.text("state < 2 AND partitionkey IS NOT NULL"),
    )
