"""Events have a depth below their root event. Those of earlier versions count as roots."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.execute("ALTER TABLE events ADD COLUMN depth bigint")
