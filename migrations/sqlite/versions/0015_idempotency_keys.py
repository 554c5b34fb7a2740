"""Publications with an `Idempotency-Key` keep their receipts, for the same request sent again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.create_table(
        "idempotency_keys",
        sa.Column("owner", sa.INTEGER(), nullable=False),
        sa.Column("name", sa.TEXT(), nullable=False),
        sa.Column("number", sa.INTEGER(), nullable=False),
        sa.Column("digest", sa.BLOB(), nullable=False),
        sa.Column("receipts", sa.BLOB(), nullable=False),
        sa.Column("created_at", sa.INTEGER(), nullable=False),
        sa.PrimaryKeyConstraint("owner", "name"),
        sqlite_strict=True,
    )
    op.create_index("idempotency_keys_number", "idempotency_keys", ["owner", "number"])
    op.create_index("idempotency_keys_created", "idempotency_keys", ["created_at"])
