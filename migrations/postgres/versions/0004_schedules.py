"""Schedules: what publishes an event again and again, by the clock."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE schedules (
            name text COLLATE "C" PRIMARY KEY,
            version bigint NOT NULL,
            cron text COLLATE "C",
            every text COLLATE "C",
            timezone text COLLATE "C" NOT NULL,
            event text COLLATE "C" NOT NULL,
            catch_up text COLLATE "C" NOT NULL,
            paused bigint NOT NULL,
            description text COLLATE "C" NOT NULL,
            anchor bigint NOT NULL,
            after bigint NOT NULL,
            last_fired_at bigint,
            created_at bigint NOT NULL,
            updated_at bigint NOT NULL
        )
    """)
