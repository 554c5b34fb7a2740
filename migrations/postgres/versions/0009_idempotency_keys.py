"""Publications with an `Idempotency-Key` keep their receipts, for the same request sent again."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.execute("""
        CREATE TABLE idempotency_keys (
            owner bigint,
            name text COLLATE "C",
            number bigint NOT NULL,
            digest bytea NOT NULL,
            receipts bytea NOT NULL,
            created_at bigint NOT NULL,
            PRIMARY KEY (owner, name)
        );
        CREATE INDEX idempotency_keys_number ON idempotency_keys (owner, number);
        CREATE INDEX idempotency_keys_created ON idempotency_keys (created_at);
    """)
