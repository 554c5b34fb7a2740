"""The audit log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.create_table(
        "audit",
        sa.Column("id", sa.INTEGER(), primary_key=True),
        sa.Column("time", sa.INTEGER(), nullable=False),
        sa.Column("actor", sa.TEXT(), nullable=False),
        sa.Column("name", sa.TEXT(), nullable=True),
        sa.Column("address", sa.TEXT(), nullable=True),
        sa.Column("action", sa.TEXT(), nullable=False),
        sa.Column("object", sa.TEXT(), nullable=True),
        sa.Column("details", sa.TEXT(), nullable=True),
        sa.Column("node", sa.INTEGER(), nullable=True),
        sqlite_strict=True,
    )
    op.create_index("audit_time", "audit", ["time"])
    for name in ("actor", "action", "object"):
        op.create_index(f"audit_{name}", "audit", [name, "id"])
