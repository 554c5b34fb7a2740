"""Events have a depth below their root event. Those of earlier versions count as roots."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.add_column("events", sa.Column("depth", sa.INTEGER(), nullable=True))
