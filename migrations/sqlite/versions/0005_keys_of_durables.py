"""Durable subscriptions have the API key that created them, so that one key cannot take all names."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("durables", sa.Column("key", sa.INTEGER(), nullable=True))
