"""The audit log."""

from __future__ import annotations

from alembic import op

revision = "0011"
down_revision = "0010"

_TABLES = """
CREATE TABLE audit (
    id bigint PRIMARY KEY,
    "time" bigint NOT NULL,
    actor text COLLATE "C" NOT NULL,
    name text COLLATE "C",
    address text COLLATE "C",
    action text COLLATE "C" NOT NULL,
    object text COLLATE "C",
    details text COLLATE "C",
    node bigint
);
CREATE INDEX audit_time ON audit ("time");
CREATE INDEX audit_actor ON audit (actor, id);
CREATE INDEX audit_action ON audit (action, id);
CREATE INDEX audit_object ON audit (object, id);
"""


def upgrade() -> None:
    op.execute(_TABLES)
