"""Handlers have the secrets that sign what is sent to their URL, and why the gateway paused them.

Nodes have the number of events that they send to URLs at a time.
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.execute('ALTER TABLE handlers ADD COLUMN secrets text COLLATE "C"')
    op.execute('ALTER TABLE handlers ADD COLUMN pause text COLLATE "C"')
    op.execute("ALTER TABLE nodes ADD COLUMN deliveries bigint NOT NULL DEFAULT 0")
