"""Durable names have the type patterns of whoever created them: it may not be a key of the store."""

from __future__ import annotations

from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.execute('ALTER TABLE durables ADD COLUMN types text COLLATE "C"')
