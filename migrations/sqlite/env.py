"""The Alembic environment. It runs on the given connection, in its open transaction."""

from __future__ import annotations

from alembic import context
from busway.gateway.store.core.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=False,  # the caller began the transaction and ends it
)
context.run_migrations()
