"""What commands print: JSON lines, tables, and notes.

On a terminal, tables fit its width: wide columns wrap between words, and a table that is still too wide
becomes one block for each row. Otherwise each row is one line, without colours. Names and ids are never cut.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import IO, TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console

_GAP = "  "
_LEAST = 24  # columns that a cell has before it wraps, or the table becomes blocks
STYLES = {
    "succeeded": "green",
    "partial": "cyan",
    "running": "cyan",
    "failed": "yellow",
    "retryable": "yellow",
    "lost": "yellow",
    "dead": "bold red",
    "cancelled": "magenta",
}
"""The colours of run states, outcomes and kinds of result."""


def print_json(items: Iterable[Any]) -> None:
    """Print one JSON value per line."""
    for item in items:
        sys.stdout.write(json.dumps(item, ensure_ascii=not _writes_all(sys.stdout)) + "\n")


def json_line(encoded: bytes, file: IO[str]) -> str:
    """Return JSON text as a line for a file. What its encoding may lack becomes a JSON escape."""
    text = encoded.decode()
    return (text if text.isascii() or _writes_all(file) else json.dumps(json.loads(text))) + "\n"


def _writes_all(file: IO[str]) -> bool:
    """Return whether a file takes every character: others would be written as escapes of Python."""
    return (getattr(file, "encoding", None) or "utf-8").lower().replace("-", "").startswith("utf")


def note(text: str) -> None:
    """Print a line for a person on standard error."""
    typer.echo(text, err=True)


def print_error(detail: str, status: int, *, json_lines: bool) -> None:
    """Print an error on standard error, as a line for a person or as a JSON object.

    `status`: the exit status.
    """
    if json_lines:
        note(json.dumps({"error": detail, "exit_status": status}, ensure_ascii=not _writes_all(sys.stderr)))
    else:
        note(f"busway: {detail}")


def print_plan(would: str, *, json_lines: bool, **fields: Any) -> None:
    """Print what a command would do without `--dry-run`, such as `pause the handler price`.

    `fields`: the objects that would change, for programs.
    """
    if json_lines:
        print_json([{"dry_run": True, "would": would, **fields}])
    else:
        Printer().line(f"would {flat(would)}")


def flat(text: str) -> str:
    """Return a text as one line: a terminal would execute control characters."""
    return "".join(c if c.isprintable() else " " for c in text)


def block(text: str) -> str:
    """Return a text of several lines without other control characters."""
    return "\n".join(flat(line.expandtabs()).rstrip() for line in text.splitlines())


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows under the names of their columns. None and empty texts are shown as `-`."""
    table = [[*columns], *([_cell(cell) for cell in row] for row in rows)]
    printer = Printer()
    widths = [max(map(_width, column)) for column in zip(*table, strict=True)]
    if printer.width is not None:
        least = [_least(column) for column in zip(*table, strict=True)]
        least[-1] = min(widths[-1], _LEAST)
        if sum(least) + len(_GAP) * (len(widths) - 1) > printer.width:
            for row in table[1:]:
                _print_block(columns, row, printer, printer.width)
            return
        _shrink(widths, least, printer.width - len(_GAP) * (len(widths) - 1))
    for number, row in enumerate(table):
        cells = [_wrapped(cell, width) for cell, width in zip(row, widths, strict=True)]
        for place in range(max(map(len, cells))):
            texts = [cell[place] if place < len(cell) else "" for cell in cells]
            padded = [text + " " * (width - _width(text)) for text, width in zip(texts, widths, strict=True)]
            printer.pieces(padded, ["" if number else "bold"] * len(row))


def _least(cells: Sequence[str]) -> int:
    """Return the least width of a column: no word of it is broken, and short cells stay in one line."""
    longest = max(_width(word) for cell in cells for word in cell.split(" "))
    return max(longest, min(max(map(_width, cells)), _LEAST))


def _shrink(widths: list[int], least: Sequence[int], room: int) -> None:
    """Make the widest columns narrower until all fit in so many columns."""
    while (excess := sum(widths) - room) > 0:
        *_, second, widest = sorted(
            [0, *(width for width, low in zip(widths, least, strict=True) if width > low)]
        )
        place = next(n for n, width in enumerate(widths) if width == widest and width > least[n])
        widths[place] = max(least[place], widest - excess, min(second, widest - 1))


def _print_block(columns: Sequence[str], row: Sequence[str], printer: Printer, width: int) -> None:
    """Print a row as its first cell, then the others with their names, as many in a line as fit."""
    for part in _wrapped(row[0], width):
        printer.line(part, style="bold")
    line: list[str] = []
    for name, value in zip(columns[1:], row[1:], strict=True):
        if value == "-":
            continue
        first, *more = _wrapped(value, max(width - len(name) - 6, _LEAST // 2))
        pair = [f"{name.lower()}:", first]
        if line and (more or _width(_GAP.join(["", *line, *pair])) > width):
            _print_pairs(line, printer)
            line = []
        line += pair
        for rest in more:
            _print_pairs(line, printer)
            line = []
            printer.line(f"    {rest}")
    _print_pairs(line, printer)


def _print_pairs(line: Sequence[str], printer: Printer) -> None:
    if line:
        printer.pieces(["", *line], ["", *["dim", ""] * (len(line) // 2)])


def print_fields(fields: Iterable[tuple[str, object]], printer: Printer | None = None) -> None:
    """Print names with their values, one a line. Fields without a value are left out."""
    shown = [(name, _cell(value)) for name, value in fields if value not in (None, "", "-")]
    printer = printer or Printer()
    indent = 2 + max((len(name) for name, _ in shown), default=0) + len(_GAP)
    room = None if printer.width is None else max(printer.width - indent, _LEAST)
    for name, value in shown:
        first, *more = _wrapped(value, room, whole=True)
        printer.pieces([f"  {name}".ljust(indent - len(_GAP)), first], ["dim", ""])
        for line in more:
            printer.line(" " * indent + line)


class Printer:
    """Prints lines on standard output, with styles on a terminal.

    Attributes:
        width: columns of the terminal, None without one.
    """

    def __init__(self) -> None:
        self.width: int | None = None
        self._console: Any = None
        if sys.stdout.isatty():
            self._console = console()
            self.width = self._console.width

    def line(self, text: str, style: str = "") -> None:
        """Print one line."""
        self.pieces([text], [style])

    def pieces(self, texts: Sequence[str], styles: Sequence[str]) -> None:
        """Print texts in one line. A text that is a state gets its colour if it has no other style."""
        if self._console is None:
            sys.stdout.write(_GAP.join(texts).rstrip() + "\n")
            return
        from rich.text import Text  # noqa: PLC0415 - as above

        line = Text()
        for number, (text, style) in enumerate(zip(texts, styles, strict=True)):
            line.append(_GAP if number else "")
            line.append(text, style or STYLES.get(text.strip(), ""))
        line.rstrip()
        self._console.print(line, soft_wrap=True)


def console(*, stderr: bool = False) -> Console:
    """Return a console for standard output or standard error. NO_COLOR switches off all styles."""
    from rich.console import Console  # noqa: PLC0415 - only terminals and `tail` need it

    return Console(stderr=stderr, color_system=None if os.environ.get("NO_COLOR") else "auto")


def _cell(value: object) -> str:
    return flat(str(value)) if value not in (None, "") else "-"


def _width(text: str) -> int:
    if text.isascii():
        return len(text)
    from rich.cells import cell_len  # noqa: PLC0415 - only wide characters need it

    return cell_len(text)


def _wrapped(text: str, room: int | None, *, whole: bool = False) -> list[str]:
    """Return the lines of a text, of so many columns. A longer word is broken, unless it shall stay whole."""
    if room is None or _width(text) <= room:
        return [text]
    from rich.cells import chop_cells  # noqa: PLC0415 - only terminals need it

    lines: list[str] = []
    line, used = "", 0
    for word in text.split(" "):
        width = _width(word)
        if line and used + 1 + width <= room:
            line, used = f"{line} {word}", used + 1 + width
            continue
        if line:
            lines.append(line)
        *broken, line = [word] if whole or width <= room else chop_cells(word, room)
        lines += broken
        used = _width(line)
    return [*lines, line]


def local(time: str) -> str:
    """Return an RFC 3339 time as local time of day with its date, to the second."""
    return datetime.fromisoformat(time).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def age(time: str) -> str:
    """Return how long ago a time was, such as `5s`, `3m` or `2d`."""
    return duration(max(0.0, -seconds_until(time)))


def seconds_until(time: str) -> float:
    """Return the seconds until an RFC 3339 time, negative if it has passed."""
    return (datetime.fromisoformat(time) - datetime.now(UTC)).total_seconds()


def duration(seconds: float) -> str:
    """Return a duration in its largest unit, such as `5s`, `3m`, `4h` or `2d`."""
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "m")):
        if seconds >= 2 * size or (seconds >= size and unit == "d"):
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def size(count: int) -> str:
    """Return a number of bytes, such as `3.5 MiB`."""
    number = float(count)
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if number < 1024 or unit == "GiB":
            return f"{count} bytes" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1024
    raise AssertionError("the last unit takes any number")


def counts(states: dict[str, int]) -> str:
    """Return how many runs there are in each state, such as `3 succeeded, 1 dead`."""
    return ", ".join(f"{count} {state}" for state, count in states.items() if count)
