"""Keys have type patterns that limit them, and the time of their last use."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.execute('ALTER TABLE keys ADD COLUMN types text COLLATE "C", ADD COLUMN last_used_at bigint')
