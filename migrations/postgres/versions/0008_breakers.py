"""Breakers of handlers."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"

_TABLES = """
CREATE TABLE breakers (
    handler bigint PRIMARY KEY,
    state text COLLATE "C" NOT NULL
);
"""


def upgrade() -> None:
    op.execute(_TABLES)
