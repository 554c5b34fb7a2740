"""Sources of webhooks."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.create_table(
        "sources",
        sa.Column("name", sa.TEXT(), primary_key=True),
        sa.Column("kind", sa.TEXT(), nullable=False),
        sa.Column("secret", sa.TEXT(), nullable=False),
        sa.Column("previous_secret", sa.TEXT(), nullable=True),
        sa.Column("previous_until", sa.INTEGER(), nullable=True),
        sa.Column("fields", sa.TEXT(), nullable=False),
        sa.Column("created_at", sa.INTEGER(), nullable=False),
        sa.Column("updated_at", sa.INTEGER(), nullable=False),
        sqlite_strict=True,
        sqlite_with_rowid=False,
    )
