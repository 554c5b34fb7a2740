"""Breakers of handlers."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.create_table(
        "breakers",
        sa.Column("handler", sa.INTEGER(), primary_key=True),
        sa.Column("state", sa.TEXT(), nullable=False),
        sqlite_strict=True,
    )
