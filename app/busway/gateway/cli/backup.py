"""`busway backup`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from busway.gateway.cli.options import Database, DryRun, Json, need_server
from busway.gateway.cli.output import print_json, print_plan, size
from busway.gateway.cli.progress import BYTES, progress
from busway.gateway.errors import BadSettings


def backup(
    file: Annotated[Path, typer.Argument(help="The new file. It must not exist.", show_default=False)],
    database_url: Database = None,
    dry_run: DryRun = False,
    json_lines: Json = False,
) -> None:
    """Copy the SQLite database to FILE, also while a gateway runs.

    The copy has everything that was acknowledged before the command began. FILE appears when it is complete.
    To use it, stop the gateway, and start one with `busway serve --database-url sqlite:///FILE`.
    """
    need_server()
    from busway.gateway import settings  # noqa: PLC0415 - only the commands on the database need these
    from busway.gateway.store.databases import choose  # noqa: PLC0415
    from busway.gateway.store.port.database import is_postgres, sqlite_path  # noqa: PLC0415
    from busway.gateway.store.sqlite.backup import back_up, check  # noqa: PLC0415

    url = settings.database_url(database_url)
    if is_postgres(url):
        raise BadSettings("busway backup copies SQLite databases only: for PostgreSQL use pg_dump")
    path, shown = Path(sqlite_path(url)), choose(url).shown
    if dry_run:
        stored = check(path, file)
        would = f"copy the database {shown} of {size(stored)} to {file.absolute()}"
        print_plan(would, json_lines=json_lines, database=shown, file=str(file.absolute()), bytes=stored)
        return
    with progress("copying", BYTES) as show:
        copied = back_up(path, file, show)
    if json_lines:
        print_json([{"database": shown, "file": str(file.absolute()), "bytes": copied}])
    else:
        typer.echo(f"the database {shown} is copied to {file.absolute()} ({size(copied)})")
