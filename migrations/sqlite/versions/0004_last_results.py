"""Ended runs have an upper bound of their result numbers, which retention needs to delete them."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("runs", sa.Column("last_result", sa.INTEGER(), nullable=True))
    op.execute("UPDATE runs SET last_result = (SELECT result FROM head) WHERE state > 2")
