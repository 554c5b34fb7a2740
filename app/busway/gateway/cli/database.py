"""`busway migrate`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from busway.gateway.cli.options import Database, DryRun, Json, need_server
from busway.gateway.cli.output import print_json, print_plan
from busway.gateway.cli.progress import waiting

if TYPE_CHECKING:
    from busway.gateway.store.port.database import Database as Store


def migrate(database_url: Database = None, dry_run: DryRun = False, json_lines: Json = False) -> None:
    """Create the database, or upgrade its schema.

    `serve` creates it, too. It upgrades SQLite only: a PostgreSQL database may have other nodes.
    """
    need_server()
    from busway.gateway import settings  # noqa: PLC0415 - only the commands on the database need these
    from busway.gateway.store.databases import choose  # noqa: PLC0415

    database = choose(settings.database_url(database_url))
    with settings.naming(settings.database_place(database_url)):
        if dry_run:
            _plan(database, json_lines=json_lines)
            return
        existed = database.exists()
        with waiting(f"creating or upgrading {database.shown}"):
            database.migrate(upgrade=True)
    if json_lines:
        print_json([{"database": database.shown, "created": not existed, "revision": database.revision}])
    else:
        typer.echo(f"the database {database.shown} is {'up to date' if existed else 'created'}")


def _plan(database: Store, *, json_lines: bool) -> None:
    """Print what a migration would do."""
    found, newest = database.health().revision, database.revision
    if found is None:
        would = f"create the database {database.shown} with schema {newest}"
    elif found < newest:
        would = f"upgrade the database {database.shown} from schema {found} to {newest}"
    else:
        would = f"change nothing: the database {database.shown} has schema {found}"
    print_plan(would, json_lines=json_lines, database=database.shown, revision=found, newest=newest)
