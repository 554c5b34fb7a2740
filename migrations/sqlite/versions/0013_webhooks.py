"""Handlers have the secrets that sign what is sent to their URL, and why the gateway paused them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.add_column("handlers", sa.Column("secrets", sa.TEXT(), nullable=True))
    op.add_column("handlers", sa.Column("pause", sa.TEXT(), nullable=True))
