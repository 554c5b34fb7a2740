"""What commands print: tables and JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import typer


def print_json(items: Iterable[Any]) -> None:
    """Print one JSON value per line."""
    for item in items:
        typer.echo(json.dumps(item))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under the names of their columns. None is an empty cell."""
    from rich.console import Console  # noqa: PLC0415 - only commands that print tables need these
    from rich.table import Table  # noqa: PLC0415

    table = Table(*columns)
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    Console().print(table)
