"""What `busway tail` prints: results as they come, for people or as JSON lines."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

import msgspec
from rich.console import Console
from rich.text import Text

from busway.client.aio import BuswayClientError, Client, Item, Subscription
from busway.gateway.errors import BuswayError

DATA_WIDTH = 200
BEHIND = 5.0  # seconds of age from which results are told to be old
NOTE_EVERY = 10.0  # seconds between such notes
_COLOURS = {
    "partial": "cyan",
    "succeeded": "green",
    "failed": "yellow",
    "dead": "bold red",
    "cancelled": "magenta",
}


class Tail:
    """Prints a subscription: for people, or with `json_lines` one JSON object a line.

    What is not a result (reconnects, how far behind it is, where to resume) is told on `notes`.
    """

    def __init__(self, *, json_lines: bool, console: Console, notes: Console) -> None:
        self._json_lines, self._console, self._notes = json_lines, console, notes
        self._behind = False
        self._noted_at = 0.0

    async def follow(self, subscription: Subscription) -> None:
        """Print items until interrupted, then say where to resume."""
        try:
            await subscription.open()
            async for item in subscription:
                self._note_lag(item)
                self._show(item)
        finally:
            if subscription.cursor:
                self._note(f"go on with --after {subscription.cursor}", "dim")

    def reconnecting(self, problem: str, pause: float) -> None:
        """Tell why the connection is made again."""
        self._note(f"{problem}; connecting again in {pause:.1f} s", "yellow")

    def _note_lag(self, item: Item) -> None:
        lag = (datetime.now(UTC) - datetime.fromisoformat(item.time)).total_seconds()
        if lag > BEHIND and monotonic() - self._noted_at > NOTE_EVERY:
            self._behind, self._noted_at = True, monotonic()
            self._note(f"behind: these are results of {timedelta(seconds=round(lag))} ago", "yellow")
        elif lag < BEHIND / 2 and self._behind:
            self._behind, self._noted_at = False, 0.0
            self._note("caught up: these are results of now", "green")

    def _show(self, item: Item) -> None:
        if self._json_lines:
            self._console.file.write(msgspec.json.encode(members(item)).decode() + "\n")
            self._console.file.flush()
        else:
            self._console.print(line(item), soft_wrap=True)

    def _note(self, text: str, style: str) -> None:
        self._notes.print(Text(text, style), soft_wrap=True)


async def tail(
    url: str,
    key: str | None,
    patterns: Iterable[str],
    *,
    json_lines: bool = False,
    console: Console | None = None,
    notes: Console | None = None,
    **wanted: Any,
) -> None:
    """Print results until interrupted; Ctrl-C ends it quietly.

    Args:
        url: the gateway.
        key: a key, where it needs one.
        patterns: types of events, as for `Client.subscribe`, like `wanted`.
        json_lines: one JSON object a line, nothing else on `console`.
        console: where results go, standard output.
        notes: where all else goes, standard error.
        wanted: what else `Client.subscribe` takes.

    Raises:
        BuswayError: the gateway is not there or refuses; `detail` is one clear line.
    """
    shown = Tail(json_lines=json_lines, console=console or Console(), notes=notes or Console(stderr=True))
    try:
        async with (
            Client(url, key, on_reconnect=shown.reconnecting) as client,
            client.subscribe(*patterns, **wanted) as subscription,
        ):
            await shown.follow(subscription)
    except asyncio.CancelledError:
        return  # Ctrl-C: asyncio.run cancels, and there is nothing left to tell
    except BrokenPipeError:
        sys.stderr.close()  # `busway tail | head`: nobody reads any more
    except (BuswayClientError, ValueError) as problem:
        raise BuswayError(str(problem)) from None


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
