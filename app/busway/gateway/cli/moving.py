"""`busway export` and `busway import`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from busway.gateway.cli.options import Database, DryRun, Json, check_schema, chosen_database
from busway.gateway.cli.output import note, print_json, print_plan, size
from busway.gateway.cli.progress import BYTES, progress
from busway.gateway.errors import BadSettings, BuswayError


def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The new file. It must not exist.")],
    database_url: Database = None,
    dry_run: DryRun = False,
    json_lines: Json = False,
) -> None:
    """Write the whole database to FILE, for `busway import`.

    FILE is as of one moment. To move a gateway, stop it first: what it stores later is not in FILE.
    """
    with chosen_database(database_url) as database:
        from busway.gateway.new_file import check_new, new_file  # noqa: PLC0415 - only these commands need it

        where = {"file": str(file.absolute()), "database": database.shown}
        if dry_run:
            check_new(file)
            check_schema(database)
            stored = database.sizes().total
            would = f"write the database {database.shown} of {size(stored)} to {file.absolute()}"
            print_plan(would, json_lines=json_lines, **where, database_bytes=stored)
            return
        rows = written = 0
        try:
            # The bar stays while the file is synced at the end of `new_file`.
            with progress("exporting", "rows") as show, new_file(file, 0o600) as new, new.open("wb") as out:
                for line, rows, expected in database.export():
                    written += out.write(line)
                    show(rows, expected)
        except OSError as problem:
            raise BuswayError(f"cannot write {str(file)!r}: {problem.strerror}") from None
    if json_lines:
        print_json([{**where, "rows": rows, "bytes": written}])
    else:
        note(f"{rows} rows of the database {database.shown} are in {file.absolute()}")


def load(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `busway export` wrote.")],
    database_url: Database = None,
    dry_run: DryRun = False,
    json_lines: Json = False,
) -> None:
    """Fill an empty database with what `busway export` wrote.

    Logs, handlers, keys, durable subscriptions and cursors stay as they are. If it is interrupted, run it
    again: it continues. Runs that were running are `lost` and run again when the gateway starts. With
    --dry-run it reads the whole file.
    """
    with chosen_database(database_url, create=True) as database:
        database.exists()
    label = "checking" if dry_run else "importing"
    try:  # what is wrong from here on is mostly the file
        with file.open("rb") as opened, progress(label, BYTES) as show:
            total = os.fstat(opened.fileno()).st_size
            for done in database.check(opened) if dry_run else database.load(opened):
                show(done, total)
            show(total, total)
    except OSError as problem:
        raise BadSettings(f"cannot read {str(file)!r}: {problem.strerror}") from None
    where = {"file": str(file.absolute()), "database": database.shown}
    if dry_run:
        would = f"fill the database {database.shown} with {file.absolute()}, which is a whole export"
        print_plan(would, json_lines=json_lines, **where, bytes=total)
    elif json_lines:
        print_json([{**where, "bytes": total}])
    else:
        note(f"{file.absolute()} is in the database {database.shown}")
