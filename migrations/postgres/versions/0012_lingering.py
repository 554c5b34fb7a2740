"""Attempts that have ended and may still run, for a new leader."""

from __future__ import annotations

from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.execute(
        """
        CREATE TABLE lingering (
            run bigint PRIMARY KEY,
            node bigint NOT NULL,
            partitionkey text COLLATE "C"
        )
        """
    )
