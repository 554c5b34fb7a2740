"""`busway export` and `busway import`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from busway.gateway.cli.options import Database, chosen_database
from busway.gateway.cli.output import note, progress
from busway.gateway.errors import BadSettings, BuswayError


def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The new file. It must not exist.")],
    database_url: Database = None,
) -> None:
    """Write the whole database to FILE, for `busway import`.

    FILE is as of one moment. To move a gateway, stop it first: what it stores later is not in FILE.
    """
    with chosen_database(database_url) as database:
        from busway.gateway.new_file import new_file  # noqa: PLC0415 - only the commands on files need it

        rows = 0
        try:
            with new_file(file, 0o600) as partial, partial.open("wb") as out, progress("exporting") as show:
                for line, rows, expected in database.export():
                    out.write(line)
                    show(rows, expected)
        except OSError as problem:
            raise BuswayError(f"cannot write {str(file)!r}: {problem.strerror}") from None
    note(f"{rows} rows of the database {database.shown} are in {file.absolute()}")


def load(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `busway export` wrote.")],
    database_url: Database = None,
) -> None:
    """Fill an empty database with what `busway export` wrote.

    Logs, handlers, keys, durable subscriptions and cursors stay as they are. If it is interrupted, run it
    again: it continues. Runs that were running are `lost` and run again when the gateway starts.
    """
    with chosen_database(database_url, create=True) as database:
        database.exists()
    try:  # what is wrong from here on is mostly the file
        with file.open("rb") as opened, progress("importing") as show:
            total = os.fstat(opened.fileno()).st_size
            for done in database.load(opened):
                show(done, total)
    except OSError as problem:
        raise BadSettings(f"cannot read {str(file)!r}: {problem.strerror}") from None
    note(f"{file.absolute()} is in the database {database.shown}")
