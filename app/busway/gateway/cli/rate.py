"""Shows how many lines of an upload are sent, how many a second, and how much time is left."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from busway.gateway.cli.output import console, duration, note

NOTE_EVERY = 5.0  # seconds between lines without a terminal


@contextmanager
def sending(total: int | None) -> Iterator[Callable[[float, float], None]]:
    """Show a bar on a terminal, else a line now and then. Call it with the lines and bytes that are sent.

    `total`: bytes of the file, None if it is a stream.
    """
    rate = _Rate(total)
    if not sys.stderr.isatty():
        yield rate.note
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415 - takes long

    columns = [TextColumn("{task.description}")]
    if total is not None:
        columns = [BarColumn(), TextColumn("{task.percentage:>3.0f}%"), *columns, TimeRemainingColumn()]  # type: ignore[list-item]
    with Progress(*columns, console=console(stderr=True)) as bar:
        task = bar.add_task("", total=total)

        def show(lines: float, size: float) -> None:
            bar.update(task, completed=size, description=rate.text(lines))

        yield show


class _Rate:
    def __init__(self, total: int | None) -> None:
        self._total = total
        self._began = self._noted = time.monotonic()

    def text(self, lines: float) -> str:
        """Return how many lines are sent, and how many a second."""
        seconds = time.monotonic() - self._began
        return f"{lines:,.0f} lines, {lines / max(seconds, 0.001):,.0f}/s"

    def note(self, lines: float, size: float) -> None:
        """Print a line if the last one is long ago."""
        now = time.monotonic()
        if now - self._noted < NOTE_EVERY:
            return
        self._noted = now
        text = self.text(lines)
        if self._total and size:
            left = (now - self._began) * (self._total - size) / size
            text += f", {size / self._total:.0%}, {duration(max(left, 0))} left"
        note(text)
