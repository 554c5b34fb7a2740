"""The source of handler code, by the digest of its file."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    op.create_table(
        "handler_files",
        sa.Column("digest", sa.TEXT(), primary_key=True),
        sa.Column("size", sa.INTEGER(), nullable=False),
        sa.Column("text", sa.TEXT(), nullable=True),
        sa.Column("seen_at", sa.INTEGER(), nullable=False),
        sqlite_strict=True,
    )
