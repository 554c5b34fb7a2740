"""What `busway tail` prints: results as they come, for people or as JSON lines."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable
from contextlib import aclosing
from datetime import datetime
from typing import Any

import msgspec
from rich.console import Console
from rich.text import Text

from app.errors import BuswayError
from busway.client import BuswayClientError, Client, Item

DATA_WIDTH = 200
_COLOURS = {
    "partial": "cyan",
    "succeeded": "green",
    "failed": "yellow",
    "dead": "bold red",
    "cancelled": "magenta",
}


async def tail(
    url: str,
    key: str | None,
    patterns: Iterable[str],
    *,
    after: str | None = None,
    kinds: Iterable[str] = (),
    handlers: Iterable[str] = (),
    json_lines: bool = False,
    console: Console | None = None,
) -> None:
    """Print results until interrupted: for people, or with `json_lines` one JSON object a line.

    Reconnects are told on stderr. Ctrl-C ends it quietly.

    Raises:
        BuswayError: the gateway is not there or refuses; `detail` is one clear line.
    """
    console = console or Console()
    notes = Console(stderr=True)

    def on_reconnect(problem: str, pause: float) -> None:
        notes.print(Text(f"{problem}; connecting again in {pause:.1f} s", "yellow"))

    try:
        async with Client(url, key, on_reconnect=on_reconnect) as client:
            stream = client.subscribe(*patterns, handlers=handlers, kinds=kinds, after=after)
            async with aclosing(stream):  # type: ignore[type-var] # an async generator
                async for item in stream:
                    _show(item, console, json_lines=json_lines)
    except asyncio.CancelledError:
        return  # Ctrl-C: asyncio.run cancels, and there is nothing left to tell
    except BrokenPipeError:
        sys.stderr.close()  # `busway tail | head`: nobody reads any more
    except (BuswayClientError, ValueError) as problem:
        raise BuswayError(str(problem)) from None


def _show(item: Item, console: Console, *, json_lines: bool) -> None:
    if json_lines:
        console.file.write(msgspec.json.encode(members(item)).decode() + "\n")
        console.file.flush()
    else:
        console.print(line(item), soft_wrap=True)


def members(item: Item) -> dict[str, Any]:
    """Return an item as the JSON members it came with."""
    body: dict[str, Any] = msgspec.structs.asdict(item)
    if item.data_base64 is None:
        del body["data_base64"]
    else:
        del body["data"]
    return body


def line(item: Item) -> Text:
    """Render an item for people: local time, kind, event, handler, data."""
    colour = _COLOURS.get(item.kind, "white")
    text = Text()
    text.append(f"{_local(item.time)}  ", "dim")
    text.append(f"{item.kind:<9}", colour)
    text.append(f"  {item.event.type}", "bold")
    text.append(f" #{item.event.seq}", "dim")
    text.append(f"  {item.handler}", "blue")
    if item.attempt > 1:
        text.append(f" attempt {item.attempt}", "yellow")
    if item.error is not None:
        text.append(f"  {item.error.type}: {_short(item.error.message)}", colour)
    elif item.data is not None:
        text.append(f"  {_short(_data(item.data))}")
    if item.completes is not None:
        text.append(f"  completes {_counts(item.completes)}", "dim")
    return text


def _local(time: str) -> str:
    return datetime.fromisoformat(time).astimezone().strftime("%H:%M:%S.%f")[:-3]


def _data(data: Any) -> str:
    if isinstance(data, bytes):
        return f"{len(data)} bytes"
    return json.dumps(data, ensure_ascii=False)


def _short(text: str) -> str:
    flat = "".join(c if c.isprintable() else " " for c in text)  # a terminal obeys control characters
    return flat if len(flat) <= DATA_WIDTH else f"{flat[: DATA_WIDTH - 1]}…"


def _counts(completes: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in completes.items() if count)
