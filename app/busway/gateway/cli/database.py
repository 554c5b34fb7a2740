"""`busway migrate`."""

from __future__ import annotations

import typer

from busway.gateway.cli.options import Database, Json, need_server
from busway.gateway.cli.output import print_json


def migrate(database_url: Database = None, json_lines: Json = False) -> None:
    """Create the database, or upgrade its schema.

    `serve` creates it, too. It upgrades SQLite only: a PostgreSQL database may have other nodes.
    """
    need_server()
    from busway.gateway import settings  # noqa: PLC0415 - only the commands on the database need these
    from busway.gateway.store.databases import choose  # noqa: PLC0415

    database = choose(settings.database_url(database_url))
    with settings.naming(settings.database_place(database_url)):
        existed = database.exists()
        database.migrate(upgrade=True)
    if json_lines:
        print_json([{"database": database.shown, "created": not existed, "revision": database.revision}])
    else:
        typer.echo(f"the database {database.shown} is {'up to date' if existed else 'created'}")
