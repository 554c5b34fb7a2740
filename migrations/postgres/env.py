"""The Alembic environment. It runs on the given connection, in its open transaction."""

from __future__ import annotations

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    version_table_schema="busway",
    transactional_ddl=False,  # the caller began the transaction and ends it
)
context.run_migrations()
