"""Durable names have the type patterns of whoever created them: it may not be a key of the store."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.add_column("durables", sa.Column("types", sa.TEXT(), nullable=True))
