"""The output of `busway tail`: results as they come, as text or as JSON lines."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

from rich.console import Console
from rich.text import Text

from busway.client.aio import BuswayClientError, Client, Item, Subscription
from busway.gateway.cli.call import explained
from busway.gateway.cli.results import Results
from busway.gateway.errors import BuswayError

BEHIND = 5.0  # seconds of age from which a note says that results are old
NOTE_EVERY = 10.0  # seconds between these notes


class Tail:
    """Prints a subscription as text, or with `json_lines` one JSON object per line.

    Notes about the connection (reconnects, lag, where to resume) go to `notes`.
    """

    def __init__(self, *, json_lines: bool, console: Console, notes: Console) -> None:
        self._results, self._notes = Results(json_lines=json_lines, console=console), notes
        self._behind = False
        self._noted_at = 0.0

    async def follow(self, subscription: Subscription) -> None:
        """Print items until interrupted, then print where to resume."""
        try:
            await subscription.open()
            async for item in subscription:
                self._note_lag(item)
                self._results.show(item)
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
    except BuswayClientError as problem:
        raise explained(problem) from None
    except ValueError as problem:
        raise BuswayError(str(problem)) from None
