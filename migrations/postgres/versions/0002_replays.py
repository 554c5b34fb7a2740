"""Replays, and which runs and results belong to one."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"

_TABLES = """
CREATE TABLE replays (
    id bigint PRIMARY KEY,
    handler bigint NOT NULL,
    types text COLLATE "C" NOT NULL,
    "after" bigint NOT NULL,
    "before" bigint NOT NULL,
    shadow bigint NOT NULL,
    state bigint NOT NULL,
    matched bigint NOT NULL,
    created bigint NOT NULL,
    position bigint NOT NULL,
    created_at bigint NOT NULL,
    finished_at bigint,
    counts text COLLATE "C"
);
CREATE INDEX replays_unfinished ON replays (id) WHERE finished_at IS NULL;
ALTER TABLE runs ADD COLUMN replay bigint;
ALTER TABLE results ADD COLUMN replay bigint;
ALTER TABLE attempts ADD COLUMN published text COLLATE "C";
CREATE INDEX runs_replay ON runs (replay, state, id) WHERE replay IS NOT NULL;
"""


def upgrade() -> None:
    op.execute(_TABLES)
