"""Results as lines of text or of JSON, for `tail` and `publish --wait`."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import msgspec
from msgspec import UNSET
from rich.cells import cell_len, chop_cells
from rich.console import Console
from rich.text import Text

from busway.client.aio import Item
from busway.gateway.cli.output import STYLES, counts, flat, json_line
from busway.gateway.cli.output import console as make_console

_LEAST = 20  # characters of data that are shown on the narrowest terminal
_ERROR = 300  # columns of an error that are shown at least: its end often says what to do


class Results:
    """Prints results, one a line, with `json_lines` as JSON objects.

    On a terminal the data is cut to its width; nothing else is ever cut.

    Attributes:
        console: where they are printed.
    """

    def __init__(self, *, json_lines: bool, console: Console | None = None) -> None:
        self._json_lines = json_lines
        self.console = console or make_console()

    def show(self, item: Item, next_attempt: str = "") -> None:
        """Print one result. `next_attempt` says when the next attempt starts, if that is known."""
        if self._json_lines:
            file = self.console.file
            file.write(json_line(msgspec.json.encode(members(item)), file))
            file.flush()
        else:
            width = self.console.width if self.console.file.isatty() else None
            self.console.print(line(item, width, next_attempt), soft_wrap=True)


def members(item: Item) -> dict[str, Any]:
    """Return an item as the JSON members that the gateway sent."""
    body: dict[str, Any] = msgspec.structs.asdict(item)
    if item.data_base64 is UNSET:
        del body["data_base64"]
    else:
        del body["data"]
    return body


def line(item: Item, width: int | None = None, next_attempt: str = "") -> Text:
    """Return an item as one line: local time, kind, event, handler, run, attempt, data, what follows.

    Args:
        item: the item.
        width: columns of the terminal, to which the data is cut, not so an error. None: nothing is cut.
        next_attempt: when the next attempt starts, or an empty text.
    """
    colour = STYLES.get(item.kind, "")
    text = Text()
    text.append(f"{_local(item.time)}  ", "dim")
    text.append(f"{item.kind:<9}", colour)
    text.append(f"  {item.event.type}", "bold")
    text.append(f" #{item.event.seq}", "dim")
    text.append(f"  {item.handler}", "blue")
    text.append(f"  run {item.run}", "dim")
    if item.attempt > 1 or item.error is not None:
        text.append(f" attempt {item.attempt}", "yellow")
    end = Text()
    if next_attempt:
        end.append(f"  {next_attempt}", "yellow")
    if item.error is not None and item.kind != "cancelled":
        end.append(f"  more: busway run {item.run}", "dim")
    if item.completes is not None:
        end.append(f"  completes {counts(item.completes)}", "dim")
    room = None if width is None else max(width - text.cell_len - end.cell_len - 2, _LEAST)
    if item.error is not None:
        most = None if room is None else max(room, _ERROR)
        text.append(f"  {_cut(described(item.error.type, item.error.message), most)}", colour)
    elif item.data is not None:
        text.append(f"  {_cut(_data(item.data), room)}")
    return text + end


def described(type_: str, message: str) -> str:
    """Return an error as one phrase: its type, and its message if it has one."""
    return f"{type_}: {message}" if message else type_


def _local(time: str) -> str:
    return datetime.fromisoformat(time).astimezone().strftime("%H:%M:%S.%f")[:-3]


def _data(data: Any) -> str:
    if isinstance(data, bytes):
        return f"{len(data)} bytes"
    return json.dumps(data, ensure_ascii=False)


def _cut(text: str, room: int | None) -> str:
    """Return a text of at most so many columns."""
    if room is None:
        return flat(text)
    shown = flat(text[: room + 1])  # a value can have many MiB
    if len(shown) == len(text) and cell_len(shown) <= room:
        return shown
    return f"{chop_cells(shown, room - 1)[0]}…"
