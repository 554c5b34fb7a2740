"""The output of `busway tail`: results as they come, as text or as JSON lines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

import msgspec
from msgspec import UNSET
from rich.console import Console
from rich.text import Text

from busway.client.aio import BuswayClientError, Client, Item, Subscription
from busway.gateway.errors import BuswayError

DATA_WIDTH = 200
BEHIND = 5.0  # seconds of age from which a note says that results are old
NOTE_EVERY = 10.0  # seconds between these notes
_COLOURS = {
    "partial": "cyan",
    "succeeded": "green",
    "failed": "yellow",
    "dead": "bold red",
    "cancelled": "magenta",
    "lost": "yellow",
}


class Tail:
    """Prints a subscription as text, or with `json_lines` one JSON object per line.

    Notes about the connection (reconnects, lag, where to resume) go to `notes`.
    """

    def __init__(self, *, json_lines: bool, console: Console, notes: Console) -> None:
        self._json_lines, self._console, self._notes = json_lines, console, notes
        self._behind = False
        self._noted_at = 0.0

    async def follow(self, subscription: Subscription) -> None:
        """Print items until interrupted, then print where to resume."""
        try:
            await subscription.open()
            async for item in subscription:
                self._note_lag(item)
                self._show(item)
        finally:
            if subscription.cursor:
                self._note(f"resume with --after {subscription.cursor}", "dim")

    def reconnecting(self, problem: str, pause: float) -> None:
        """Print why the client reconnects, and when."""
        self._note(f"{problem}; reconnecting in {pause:.1f} s", "yellow")

    def _note_lag(self, item: Item) -> None:
        lag = (datetime.now(UTC) - datetime.fromisoformat(item.time)).total_seconds()
        if lag > BEHIND and monotonic() - self._noted_at > NOTE_EVERY:
            self._behind, self._noted_at = True, monotonic()
            self._note(f"behind: these results are {timedelta(seconds=round(lag))} old", "yellow")
        elif lag < BEHIND / 2 and self._behind:
            self._behind, self._noted_at = False, 0.0
            self._note("caught up: these results are current", "green")

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
    """Print results until interrupted. Ctrl-C ends it without an error.

    Args:
        url: address of the gateway.
        key: API key, if the gateway needs one.
        patterns: patterns of event types, as for `Client.subscribe`.
        json_lines: print one JSON object per line, and nothing else on `console`.
        console: gets the results; standard output by default.
        notes: gets the notes; standard error by default.
        wanted: other arguments of `Client.subscribe`.

    Raises:
        BuswayError: no gateway answers, or it refuses. `detail` is one line.
    """
    shown = Tail(json_lines=json_lines, console=console or Console(), notes=notes or Console(stderr=True))
    try:
        async with (
            Client(url, key, on_reconnect=shown.reconnecting) as client,
            client.subscribe(*patterns, **wanted) as subscription,
        ):
            await shown.follow(subscription)
    except asyncio.CancelledError:
        return  # Ctrl-C: asyncio.run cancels the task
    except (BuswayClientError, ValueError) as problem:
        raise BuswayError(str(problem)) from None


def members(item: Item) -> dict[str, Any]:
    """Return an item as the JSON members that the gateway sent."""
    body: dict[str, Any] = msgspec.structs.asdict(item)
    if item.data_base64 is UNSET:
        del body["data_base64"]
    else:
        del body["data"]
    return body


def line(item: Item) -> Text:
    """Return an item as one line of text: local time, kind, event, handler, data."""
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
    flat = "".join(c if c.isprintable() else " " for c in text)  # a terminal would execute control characters
    return flat if len(flat) <= DATA_WIDTH else f"{flat[: DATA_WIDTH - 1]}…"


def _counts(completes: dict[str, int]) -> str:
    return ", ".join(f"{count} {state}" for state, count in completes.items() if count)
