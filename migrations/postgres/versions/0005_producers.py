"""Producers: how many lines of each NDJSON upload were taken."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"

_TABLES = """
CREATE TABLE producers (
    id text COLLATE "C" PRIMARY KEY,
    lines bigint NOT NULL,
    accepted bigint NOT NULL,
    duplicates bigint NOT NULL,
    rejected bigint NOT NULL,
    created_at bigint NOT NULL,
    updated_at bigint NOT NULL
);
CREATE INDEX producers_updated ON producers (updated_at);
"""


def upgrade() -> None:
    op.execute(_TABLES)
