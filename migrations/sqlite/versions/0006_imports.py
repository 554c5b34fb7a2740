"""An import that is under way has a row."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "imports",
        sa.Column("source", sa.TEXT(), primary_key=True),
        sa.Column("pages", sa.INTEGER(), nullable=False),
        sqlite_strict=True,
    )
