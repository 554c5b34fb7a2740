"""`busway migrate`."""

from __future__ import annotations

import typer

from busway.gateway.cli.options import Database, need_server


def migrate(database_url: Database = None) -> None:
    """Upgrade the database schema. `serve` does this at start."""
    need_server()
    from busway.gateway import settings  # noqa: PLC0415 - only the commands on the database need these
    from busway.gateway.store.sqlite import database as sqlite  # noqa: PLC0415

    path = settings.database(database_url)
    sqlite.migrate(path)
    typer.echo(f"{path} is up to date")
