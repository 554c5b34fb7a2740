"""Export and import of a whole database: all rows as lines of JSON, in one order for every database.

The first line is a `Header`, the last one a `Trailer`, each line between them a `Page` of rows of one table,
by primary key. Bytes are base64. Equal databases make equal files.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import msgspec
import sqlalchemy as sa

from busway.gateway.errors import BadSettings
from busway.gateway.store.core import schema
from busway.gateway.store.core.constructs import at_most
from busway.gateway.store.core.transaction import Bounds, Snapshot, Transaction

log = logging.getLogger("busway.store")

VERSION = 1
UNFINISHED = "an import into it has not ended: run `busway import FILE` again"
TABLES = (
    schema.node_names,
    schema.handlers,
    schema.handler_revisions,
    schema.handler_files,
    schema.breakers,
    schema.keys,
    schema.sources,
    schema.durables,
    schema.replays,
    schema.schedules,
    schema.producers,
    schema.events,
    schema.runs,
    schema.attempts,
    schema.results,
    schema.trees,
    schema.idempotency_keys,
    schema.audit,
)
NOT_MOVED = {
    "alembic_version": "the schema of each database has its own revisions",
    "imports": "how far an import into this database has come",
    "tickets": "expire after seconds, and are signed with the secret of their cell",
    "head": "its numbers are in the header",
    "counts": "in the header",
    "last_errors": "in the header",
    "cell": "its floor is in the header",
    "commits": "of the nodes of one database",
    "nodes": "of one database",
    "terms": "of the nodes of one database",
    "catalogs": "nodes store what their code defines when they start",
    "lingering": "of the nodes of one database",
}
"""The other tables of each database, and why they are not moved."""
_BY_NAME = {str(table.name): table for table in TABLES}
PAGE_ROWS, PAGE_BYTES = 2_000, 4 << 20
_TABLE = b'{"table":'
_TRAILER_BYTES = 100
_HEADER_BYTES = 64 << 20  # much more than thousands of handlers need

Cell = int | float | str | None


class Header(msgspec.Struct):
    """The first line: what is not in the tables, and the columns of each table.

    Attributes:
        busway: always `export`.
        version: of this format.
        bounds: name and newest numbers of the logs.
        counts: number of runs by handler and state.
        last_errors: newest error of each handler.
        columns: names, by table.
    """

    busway: str
    version: int
    bounds: Bounds
    counts: list[tuple[int, int, int]]
    last_errors: list[tuple[int, str]]
    columns: dict[str, list[str]]


class Page(msgspec.Struct):
    """Rows of one table. Bytes are base64 text."""

    table: str
    rows: list[list[Cell]]


class Trailer(msgspec.Struct):
    """The last line: the number of rows in all pages."""

    rows: int


class Import(msgspec.Struct):
    """How far an import has come: `source` names its file, `pages` were written."""

    source: str
    pages: int


_encode = msgspec.json.Encoder().encode
_decode_header = msgspec.json.Decoder(Header).decode
_decode_page = msgspec.json.Decoder(Page).decode
_decode_trailer = msgspec.json.Decoder(Trailer).decode
_progress = sa.select(schema.imports.c.source, schema.imports.c.pages)


def lines(snapshot: Snapshot) -> Iterator[tuple[bytes, int, int]]:
    """Yield the lines of an export, each with the number of rows so far, and of all, at most.

    Args:
        snapshot: the whole database as of one moment.
    """
    header = Header(
        busway="export",
        version=VERSION,
        bounds=snapshot.bounds(),
        counts=sorted(snapshot.counts()),
        last_errors=sorted(snapshot.last_errors()),
        columns={name: [str(column.name) for column in table.columns] for name, table in _BY_NAME.items()},
    )
    bounds, total = header.bounds, 0
    # Attempts have rows only if they failed, so these are most rows.
    expected = bounds.event + bounds.run + bounds.result - bounds.floor
    yield _encode(header) + b"\n", total, expected
    for name, table in _BY_NAME.items():
        query = sa.select(*(_exported(column) for column in table.columns)).order_by(
            *table.primary_key.columns
        )
        for rows in _pages(snapshot.stream(query)):
            total += len(rows)
            yield b'%b%b,"rows":%b}\n' % (_TABLE, _encode(name), _encode(rows)), total, max(expected, total)
    yield _encode(Trailer(total)) + b"\n", total, total


def _exported(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """Return a column, without the nodes that have something open: they do not have it in the copy."""
    return sa.null() if column is schema.durables.c.holder else column


def load(transaction: Transaction, file: BinaryIO) -> Iterator[int]:
    """Write an export into an empty database. Continue an import of it that was interrupted.

    Args:
        transaction: of the database, which nobody else uses. Each page is one.
        file: the export, at its start. It can seek.

    Yields:
        How many bytes of the file are done, after each line.

    Raises:
        BadSettings: the database is not empty, or the file is not an export, damaged or cut off.
    """
    first, header, total = _open(file)
    done = check_empty(transaction, _source(first))
    place = len(first)
    for number, (page, end) in enumerate(_read_pages(file, header, len(first), total), 1):
        place = end
        if number > done.pages:
            try:
                _write_page(transaction, header, page, Import(done.source, number))
            except Exception as problem:
                if not transaction.is_refusal(problem):
                    raise
                raise _damaged(number) from None
        yield place
    _finish(transaction, header)
    yield place


@contextmanager
def upgrading(shown: str, revision: str | None, newest: str) -> Iterator[None]:
    """Log that a database gets a new schema, and how long that took: a large one takes minutes."""
    if revision is None:
        yield
        return
    began = time.monotonic()
    log.info("upgrading the database %s from schema %s to %s", shown, revision, newest)
    yield
    log.info("upgraded the database %s in %.1f s", shown, time.monotonic() - began)


def usable(revision: str | None, wanted: str, shown: str) -> str | None:
    """Return the revision of a database that can be checked without upgrading it, None if there is none.

    Raises:
        BadSettings: it must be upgraded first.
    """
    if revision is not None and revision < wanted:
        raise BadSettings(f"the database {shown!r} has schema {revision}: run `busway migrate` first")
    return revision


def check(snapshot: Snapshot | None, file: BinaryIO) -> Iterator[int]:
    """Read an export as `load` does, and write nothing. Yield and raise the same.

    `snapshot`: of the database, None if it does not exist yet.
    """
    first, header, total = _open(file)
    if snapshot is not None:
        check_empty(snapshot, _source(first))
    for _, place in _read_pages(file, header, len(first), total):
        yield place


def check_file(file: BinaryIO) -> None:
    """Refuse a file that is not a whole export, before a database is created for it. It stays at its start.

    Raises:
        BadSettings: it is not.
    """
    _open(file)
    file.seek(0)


def _open(file: BinaryIO) -> tuple[bytes, Header, int]:
    """Return the first line, as it is and read, and the number of rows. The pages follow in the file."""
    first = file.readline(_HEADER_BYTES)
    header = _read_header(first)
    total = _read_trailer(file).rows
    file.seek(len(first))
    return first, header, total


def _source(first: bytes) -> str:
    return hashlib.sha256(first).hexdigest()[:32]


def _read_pages(file: BinaryIO, header: Header, place: int, total: int) -> Iterator[tuple[Page, int]]:
    """Yield each page, and how many bytes of the file are read.

    Raises:
        BadSettings: a page is damaged, or the rows are not so many.
    """
    rows = 0
    for number, line in enumerate(file, 1):
        place += len(line)
        if not line.startswith(_TABLE):
            break
        page = _read_page(line, header, number)
        rows += len(page.rows)
        yield page, place
    if rows != total:
        raise BadSettings(f"the file is damaged: it has {rows} rows instead of {total}; export it again")


def check_empty(snapshot: Snapshot, source: str) -> Import:
    """Return how far the import of this file has come.

    Raises:
        BadSettings: the database is not empty, or another file is being imported.
    """
    found = snapshot.fetch(_progress, tuple[str, int])
    if found and found[0][0] != source:
        raise BadSettings(
            "the database has the beginning of another import: continue that, or use a new database"
        )
    if found:
        return Import(*found[0])
    bounds = snapshot.bounds()
    kept = any(snapshot.fetch(_any(table), tuple[int]) for table in TABLES)
    if bounds.event or bounds.result or kept:
        raise BadSettings("the database is not empty: import into a new one")
    return Import(source, 0)


def _any(table: sa.Table) -> sa.Select[int]:
    return sa.select(sa.literal_column("1", sa.Integer)).select_from(table).limit(at_most(1))


def _read_header(line: bytes) -> Header:
    try:
        header = _decode_header(line)
    except msgspec.MsgspecError:
        raise BadSettings("the file is not an export of Busway: `busway export FILE` writes one") from None
    unknown = [name for name, columns in header.columns.items() if not _knows(name, columns)]
    if header.busway != "export" or header.version > VERSION or unknown:
        raise BadSettings("the file was written by a newer Busway: upgrade Busway, then import it")
    return header


def _knows(name: str, columns: list[str]) -> bool:
    table = _BY_NAME.get(name)
    return table is not None and all(column in table.c for column in columns)


def _read_trailer(file: BinaryIO) -> Trailer:
    file.seek(-min(_TRAILER_BYTES, file.seek(0, os.SEEK_END)), os.SEEK_END)
    *_, last, after = (b"", *file.read().split(b"\n"))
    try:
        return _decode_trailer(b"" if after else last)
    except msgspec.MsgspecError:
        raise BadSettings("the file is cut off: export it again") from None


def _read_page(line: bytes, header: Header, number: int) -> Page:
    try:
        page = _decode_page(line)
        wide = {len(row) for row in page.rows} - {len(header.columns[page.table])}
    except (msgspec.MsgspecError, KeyError):
        wide = {0}
    if wide:
        raise _damaged(number)
    return page


def _damaged(number: int) -> BadSettings:
    return BadSettings(f"the file is damaged in line {number + 1}: export it again")


def _write_page(transaction: Transaction, header: Header, page: Page, done: Import) -> None:
    table, names = _BY_NAME[page.table], header.columns[page.table]
    rows: list[Any] = page.rows
    for place in (n for n, name in enumerate(names) if isinstance(table.c[name].type, sa.LargeBinary)):
        for row in rows:
            if row[place] is not None:
                row[place] = msgspec.convert(row[place], bytes)
    transaction.begin()
    if rows:
        transaction.insert_into(table, names, rows)
    transaction.execute(sa.delete(schema.imports))
    transaction.execute(sa.insert(schema.imports), msgspec.structs.asdict(done))
    transaction.commit()


def _finish(transaction: Transaction, header: Header) -> None:
    """Write what is not in the tables, in the last transaction. From then on the database can be used."""
    transaction.begin()
    transaction.restore(header.bounds, header.counts, header.last_errors)
    transaction.execute(sa.delete(schema.imports))
    transaction.commit()


def _pages(rows: Iterable[tuple[Any, ...]]) -> Iterator[list[list[Any]]]:
    page: list[list[Any]] = []
    size = 0
    for row in rows:
        page.append([_readable(value) for value in row])
        size += sum(len(value) for value in row if isinstance(value, str | bytes))
        if len(page) >= PAGE_ROWS or size >= PAGE_BYTES:
            yield page
            page, size = [], 0
    if page:
        yield page


def _readable(value: Any) -> Any:
    """Return a value that JSON can hold. Only somebody else's rows have text that is not UTF-8."""
    if isinstance(value, str) and not value.isascii():
        return value.encode("utf-8", "replace").decode()
    return value
