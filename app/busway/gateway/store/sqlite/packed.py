"""Packed queries: all rows in one JSON text.

SQLite releases the GIL at every row, and a thread beside a busy event loop waits milliseconds to get it
back: 500 rows took 160 ms one by one, and 15 ms packed into one JSON text. So every read of many rows is
packed and decoded directly into typed rows.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import msgspec
import sqlalchemy as sa

Row = TypeVar("Row")


def pack(query: sa.Select[Any]) -> sa.Select[tuple[str]]:
    """Make a query return one JSON array of arrays. It keeps its order only if it has a limit."""
    labelled = [column.label(f"c{n}") for n, column in enumerate(query.selected_columns)]
    inner = query.with_only_columns(*labelled, maintain_column_froms=True).subquery("packed")
    return sa.select(sa.func.json_group_array(sa.func.json_array(*inner.c)))


def fetch(
    connection: sa.Connection,
    packed: sa.Select[tuple[str]],
    row: type[Row],
    parameters: dict[str, Any] | None = None,
) -> list[Row]:
    """Run a packed query and return its rows as `row`, an array-like struct or a tuple type.

    A field that its type cannot hold is None, or empty if its type does not include None.
    """
    text: Any = connection.execute(packed, parameters or {}).scalar_one()
    try:
        rows: list[Row] = _decoder(row).decode(text)
    except ValueError:  # a row of an earlier version, or from somebody else
        return [_salvaged(row, values) for values in json.loads(text)]
    return rows


def readable(raw: bytes) -> str:
    """Decode text of the database. Bytes that are not UTF-8 become lone surrogates, which `fetch` looks for.

    It is the `text_factory` of connections that read.
    """
    return raw.decode(errors="surrogateescape")


def text_of(data: sa.ColumnElement[Any], binary: sa.ColumnElement[Any]) -> tuple[sa.ColumnElement[Any], ...]:
    """Return two columns for a payload: JSON text and hexadecimal digits. One of them is null."""
    return sa.case((binary == 0, sa.cast(data, sa.TEXT))), sa.case((binary == 1, sa.func.hex(data)))


def data_of(text: str | None, digits: str | None) -> bytes | None:
    """Return the payload from the columns of `text_of`."""
    if text is not None:
        return text.encode(errors="surrogateescape")
    return None if digits is None else bytes.fromhex(digits)


def _salvaged(row: type[Row], values: list[Any]) -> Row:
    if get_origin(row) is tuple or not issubclass(row, msgspec.Struct):
        return msgspec.convert(values, row)
    kinds = get_type_hints(row)
    named = zip(row.__struct_fields__, values, strict=False)
    # A payload keeps its bytes: a handler that gets it must not take it for an event without data.
    return row(*(value if name == "text" else _fitting(kinds[name], value) for name, value in named))


def _fitting(kind: Any, value: Any) -> Any:
    """Return the value if it has that type, else None, or the empty value of a type without None."""
    try:
        if isinstance(value, str):
            value.encode()
        return msgspec.convert(value, kind)
    except ValueError:
        return None if type(None) in get_args(kind) else kind()


def _decoder(row: Any) -> msgspec.json.Decoder[Any]:
    known = _decoders.get(row)
    if known is None:
        known = _decoders[row] = msgspec.json.Decoder(list[row])
    return known


_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}
