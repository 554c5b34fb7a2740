"""Sources of webhooks."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"

_TABLES = """
CREATE TABLE sources (
    name text COLLATE "C" PRIMARY KEY,
    kind text COLLATE "C" NOT NULL,
    secret text COLLATE "C" NOT NULL,
    previous_secret text COLLATE "C",
    previous_until bigint,
    fields text COLLATE "C" NOT NULL,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL
);
"""


def upgrade() -> None:
    op.execute(_TABLES)
