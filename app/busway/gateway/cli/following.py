"""The output of `busway tail`: results as they come, as text or as JSON lines."""

from __future__ import annotations

import asyncio
import math
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import Any

import msgspec
from rich.console import Console
from rich.text import Text

from busway.client.aio import BuswayClientError, Client, Gap, Item, Subscription
from busway.gateway.cli.call import Caller, explained
from busway.gateway.cli.output import console as make_console
from busway.gateway.cli.output import duration, seconds_until
from busway.gateway.cli.results import Results
from busway.gateway.errors import BuswayError

BEHIND = 5.0  # seconds of age from which a note says that results are old
NOTE_EVERY = 10.0  # seconds between these notes
ANSWER = 10.0  # seconds for the request that asks when the next attempt is: Ctrl-C waits for it
_PAGE = 1000


class Wanted(msgspec.Struct, kw_only=True):
    """What `busway tail` follows, as the arguments of `Client.subscribe`. `last`: how many to begin with."""

    types: list[str] = []
    handlers: list[str] = []
    kinds: list[str] = []
    filter: dict[str, Any] | None = None
    correlationid: str | None = None
    after: str = "latest"
    last: int = 0

    def query(self) -> dict[str, Any]:
        """Return the selection as parameters of `GET /v1/results`."""
        selected = {"types": self.types, "handlers": self.handlers, "kinds": self.kinds}
        found: dict[str, Any] = {name: values for name, values in selected.items() if values}
        if self.filter is not None:
            found["filter"] = msgspec.json.encode(self.filter).decode()
        if self.correlationid is not None:
            found["correlationid"] = self.correlationid
        return found

    def described(self) -> str:
        """Return it in words, such as `order.* of the handler price`."""
        words = [" ".join(self.types) or "all results"]
        words += [f"of the handler {name}" for name in self.handlers]
        words += [f"of kind {' or '.join(self.kinds)}"] if self.kinds else []
        words += [f"with the correlation id {self.correlationid}"] if self.correlationid else []
        words += ["that match the filter"] if self.filter is not None else []
        return " ".join(words)


class Tail:
    """Prints a subscription as text, or with `json_lines` one JSON object per line.

    Notes about the connection (outages, lag, where to resume) go to `notes`.
    """

    def __init__(self, caller: Caller, *, json_lines: bool, console: Console | None, notes: Console) -> None:
        self._caller, self._json_lines = caller, json_lines
        self._results, self._notes = Results(json_lines=json_lines, console=console), notes
        self._behind = self._away = False
        self._noted_at = -math.inf

    async def begin(self, wanted: Wanted) -> str:
        """Print the last results, if any are wanted. Return the cursor to follow from.

        Raises:
            BuswayError: no gateway answers, or it refuses.
        """
        if not wanted.last:
            return wanted.after
        items, cursor = await asyncio.to_thread(newest, self._caller, wanted)
        for item in items:
            self._results.show(item)
        return cursor

    async def follow(self, subscription: Subscription, what: str) -> None:
        """Print items until interrupted, then print where to resume."""
        try:
            await subscription.open()
            self._note(f"following {what} at {self._caller.gateway.url}; Ctrl-C ends", "dim")
            async for item in subscription:
                current = self._note_lag(item)
                self._results.show(item, await self._next_attempt(item) if current else "")
        finally:
            if subscription.cursor:
                self._note(f"resume with --after {subscription.cursor}", "dim")

    def reconnecting(self, problem: str, _pause: float) -> None:
        """Print once that the gateway is away, until it is back."""
        if not self._away:
            self._away = True
            self._note(f"the gateway is away ({problem}): waiting for it", "yellow")

    def connected(self) -> None:
        """Print that the gateway is back, if it was away."""
        if self._away:
            self._away = False
            self._noted_at = monotonic()  # results of the outage are old: no note about that
            self._note("the gateway is back: nothing was missed", "green")

    async def _next_attempt(self, item: Item) -> str:
        """Return when the next attempt of a failed run starts, if that is known."""
        if self._json_lines or item.kind not in {"failed", "lost"}:
            return ""
        try:
            run = await asyncio.to_thread(self._caller.call, "GET", f"/v1/runs/{item.run}")
        except BuswayError:
            return ""
        if run["attempt"] != item.attempt or run["state"] not in {"available", "retryable"}:
            return ""
        wait = seconds_until(run["available_at"])
        return f"retrying in {_wait(wait)}" if wait > 0 else "retrying now"

    def _note_lag(self, item: Item) -> bool:
        """Print if results are old. Return whether this one is current."""
        lag = (datetime.now(UTC) - datetime.fromisoformat(item.time)).total_seconds()
        if lag > BEHIND and monotonic() - self._noted_at > NOTE_EVERY:
            self._behind, self._noted_at = True, monotonic()
            self._note(f"behind: these results are {timedelta(seconds=round(lag))} old", "yellow")
        elif lag < BEHIND / 2 and self._behind:
            self._behind, self._noted_at = False, -math.inf
            self._note("caught up: these results are current", "green")
        return lag <= BEHIND

    def _note(self, text: str, style: str) -> None:
        self._notes.print(Text(text, style), soft_wrap=True)


def newest(caller: Caller, wanted: Wanted) -> tuple[list[Item], str]:
    """Return the last results of a selection, oldest first, and the cursor behind them.

    Raises:
        BuswayError: no gateway answers, or it refuses.
    """
    items: list[Item] = []
    cursor = ""
    before: dict[str, str] = {}
    while len(items) < wanted.last:
        params = {**wanted.query(), "last": min(wanted.last - len(items), _PAGE), **before}
        page = caller.call("GET", "/v1/results", params=params, names=NAMES)
        items[:0] = msgspec.convert(page["items"], list[Item])
        cursor = cursor or page["cursor"]
        if page["next"] is None:
            break
        before = {"before": page["next"]}
    return items, cursor


NAMES = {
    "types": "PATTERN",
    "handlers": "--handler",
    "kinds": "--kind",
    "filter": "--filter",
    "correlationid": "--correlationid",
    "after": "--after",
    "last": "--last",
}
"""The argument or option for each field of a subscription."""


async def tail(
    url: str,
    key: str | None,
    wanted: Wanted,
    *,
    json_lines: bool = False,
    console: Console | None = None,
    notes: Console | None = None,
) -> None:
    """Print results until interrupted. Ctrl-C ends it without an error.

    Args:
        url: address of the gateway.
        key: API key, if the gateway needs one.
        wanted: what to follow.
        json_lines: print one JSON object per line, and nothing else on `console`.
        console: gets the results; standard output by default.
        notes: gets the notes; standard error by default.

    Raises:
        BuswayError: no gateway answers, or it refuses. `detail` is one line.
    """
    with Caller(url, key, ANSWER) as caller, _while_read():
        shown = Tail(caller, json_lines=json_lines, console=console, notes=notes or make_console(stderr=True))
        try:
            after = await shown.begin(wanted)
            async with (
                Client(url, key, on_reconnect=shown.reconnecting, on_connect=shown.connected) as client,
                client.subscribe(
                    *wanted.types,
                    handlers=wanted.handlers,
                    kinds=wanted.kinds,
                    filter=wanted.filter,
                    correlationid=wanted.correlationid,
                    after=after,
                ) as subscription,
            ):
                await shown.follow(subscription, wanted.described())
        except asyncio.CancelledError:
            return  # Ctrl-C: asyncio.run cancels the task
        except Gap:
            raise BuswayError(
                "the results after this cursor were deleted, or it belongs to another database: "
                "use --after earliest, --after latest or -n"
            ) from None
        except BuswayClientError as problem:
            raise explained(problem, NAMES) from None
        except ValueError as problem:
            raise BuswayError(str(problem)) from None


@contextmanager
def _while_read() -> Iterator[None]:
    """End this task as Ctrl-C does if standard output is a pipe and its reader is gone, as of `tail | head`.

    Otherwise it would be noticed only with the next result.
    """
    try:
        is_pipe = stat.S_ISFIFO(os.fstat(1).st_mode)
    except OSError:
        is_pipe = False
    task = asyncio.current_task()
    if not is_pipe or task is None:
        yield
        return
    loop = asyncio.get_running_loop()

    def gone() -> None:
        loop.remove_reader(1)
        task.cancel()

    loop.add_reader(1, gone)  # the end for writing: only an error makes it readable
    try:
        yield
    finally:
        loop.remove_reader(1)


def _wait(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 10 else duration(math.ceil(seconds))
