"""Whole answers in one row.

SQLite lets go of the interpreter at every row, and a thread beside a busy loop waits milliseconds to
get it again: 500 rows took 160 ms one by one and 15 ms packed into one JSON text. So every read of
many rows is packed, and decoded straight into typed rows.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec
import sqlalchemy as sa

Row = TypeVar("Row")


def pack(query: sa.Select[Any]) -> sa.Select[tuple[str]]:
    """Make a query answer with one JSON array of arrays; its order holds if it has a limit too."""
    labelled = [column.label(f"c{n}") for n, column in enumerate(query.selected_columns)]
    inner = query.with_only_columns(*labelled, maintain_column_froms=True).subquery("packed")
    return sa.select(sa.func.json_group_array(sa.func.json_array(*inner.c)))


def fetch(
    connection: sa.Connection,
    packed: sa.Select[tuple[str]],
    row: type[Row],
    parameters: dict[str, Any] | None = None,
) -> list[Row]:
    """Run a packed query and return its rows as array-like structs (or any type that a JSON array can be)."""
    text: Any = connection.execute(packed, parameters or {}).scalar_one()
    rows: list[Row] = _decoder(row).decode(text)
    return rows


def text_of(data: sa.ColumnElement[Any], binary: sa.ColumnElement[Any]) -> tuple[sa.ColumnElement[Any], ...]:
    """Two columns for a payload, one of them null: its JSON text, or its bytes as hexadecimal digits."""
    return sa.case((binary == 0, sa.cast(data, sa.TEXT))), sa.case((binary == 1, sa.func.hex(data)))


def data_of(text: str | None, digits: str | None) -> bytes | None:
    """Read back what `text_of` split."""
    if text is not None:
        return text.encode()
    return None if digits is None else bytes.fromhex(digits)


def _decoder(row: Any) -> msgspec.json.Decoder[Any]:
    known = _decoders.get(row)
    if known is None:
        known = _decoders[row] = msgspec.json.Decoder(list[row])
    return known


_decoders: dict[Any, msgspec.json.Decoder[Any]] = {}
