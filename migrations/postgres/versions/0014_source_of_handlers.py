"""The source of handler code, by the digest of its file."""

from __future__ import annotations

from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE handler_files (
            digest text COLLATE "C" PRIMARY KEY,
            size bigint NOT NULL,
            text text COLLATE "C",
            seen_at bigint NOT NULL
        )
    """)
