"""`busway migrate`."""

from __future__ import annotations

import typer

from busway.gateway.cli.options import Database, Json, need_server
from busway.gateway.cli.output import print_json


def migrate(database_url: Database = None, json_lines: Json = False) -> None:
    """Create the database, or upgrade its schema.

    `serve` does this at start.
    """
    need_server()
    from busway.gateway import settings  # noqa: PLC0415 - only the commands on the database need these
    from busway.gateway.store.sqlite import database as sqlite  # noqa: PLC0415

    path = settings.database(database_url)
    existed = sqlite.exists(path)
    sqlite.migrate(path)
    if json_lines:
        print_json([{"database": str(path), "created": not existed, "revision": sqlite.REVISION}])
    else:
        typer.echo(f"the database {path.absolute()} is {'up to date' if existed else 'created'}")
