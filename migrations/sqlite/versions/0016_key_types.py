"""Keys have type patterns that limit them, and the time of their last use."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.add_column("keys", sa.Column("types", sa.TEXT(), nullable=True))
    op.add_column("keys", sa.Column("last_used_at", sa.INTEGER(), nullable=True))
