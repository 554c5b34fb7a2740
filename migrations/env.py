"""Alembic's way in: runs on the connection it is handed, inside that connection's transaction."""

from __future__ import annotations

from alembic import context
from busway.gateway.store.sqlite.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=False,  # whoever handed over the connection began a transaction and ends it
)
context.run_migrations()
