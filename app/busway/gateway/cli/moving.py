"""`busway export` and `busway import`."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from busway.gateway.cli.options import Database, need_server
from busway.gateway.cli.output import note
from busway.gateway.errors import BadSettings


def export(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The file to write. It must not exist.")],
    database_url: Database = None,
) -> None:
    """Write the whole database to a file, for `busway import`.

    The file is as of one moment. To move a gateway, stop it first: what it stores later is not in the file.
    """
    need_server()
    from busway.gateway import settings  # noqa: PLC0415 - only the commands on the database need these
    from busway.gateway.store.databases import choose  # noqa: PLC0415

    database = choose(settings.database_url(database_url))
    if not database.exists():
        raise BadSettings(f"there is no database {database.shown!r}: choose one with --database-url")
    partial = file.with_name(f"{file.name}.partial")
    with _only_whole(file, partial) as out, _bar(None) as advance:
        rows = 0
        for line, rows in database.export():
            out.write(line)
            advance(rows)
    note(f"{rows} rows of the database {database.shown} are in {file}")


def load(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that `busway export` wrote.")],
    database_url: Database = None,
) -> None:
    """Fill an empty database with what `busway export` wrote.

    Logs, handlers, keys, durable subscriptions and cursors stay as they are. If it is interrupted, run it
    again: it continues. Runs that were running are `lost` and run again when the gateway starts.
    """
    need_server()
    from busway.gateway import settings  # noqa: PLC0415 - only the commands on the database need these
    from busway.gateway.store.databases import choose  # noqa: PLC0415

    database = choose(settings.database_url(database_url))
    try:
        opened = file.open("rb")
        total = os.fstat(opened.fileno()).st_size
    except OSError as problem:
        raise BadSettings(f"FILE: cannot read {str(file)!r}: {problem.strerror}") from None
    with opened, _bar(total) as advance:
        try:
            for done in database.load(opened):
                advance(done)
        except OSError as problem:
            raise BadSettings(f"FILE: cannot read {str(file)!r}: {problem.strerror}") from None
    note(f"{file} is in the database {database.shown}")


@contextlib.contextmanager
def _only_whole(file: Path, partial: Path) -> Iterator[BinaryIO]:
    """Open a file that gets its name when it is complete and synced.

    Raises:
        BadSettings: the file exists, or cannot be written.
    """
    try:
        if file.exists() or file.is_symlink():
            raise BadSettings(f"FILE: {str(file)!r} exists: choose another name")
        partial.unlink(missing_ok=True)
        opened = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(opened, "wb") as out:
                yield out
                out.flush()
                os.fsync(out.fileno())
            os.link(partial, file)  # unlike a rename, it replaces nothing
        finally:
            partial.unlink(missing_ok=True)
        folder = os.open(file.absolute().parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    except OSError as problem:
        raise BadSettings(f"FILE: cannot write {str(file)!r}: {problem.strerror}") from None


@contextlib.contextmanager
def _bar(total: int | None) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how much is done: rows, or bytes of `total`."""
    if not sys.stderr.isatty():
        yield lambda _done: None
        return
    if total is None:

        def show(rows: int) -> None:
            sys.stderr.write(f"\r{rows} rows")

        yield show
        sys.stderr.write("\n")
        return
    with typer.progressbar(length=total, label="importing", file=sys.stderr) as bar:
        yield lambda done: bar.update(done - bar.pos)
