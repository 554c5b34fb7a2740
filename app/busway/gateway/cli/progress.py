"""Progress where people wait: a bar with rate and time left on a terminal, otherwise a line now and then.

Everything goes to standard error. The first line comes after 5 seconds, and the pause before the next one
doubles up to a minute: a command of a minute writes four lines, one of a day one a minute.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from busway.gateway.cli.output import console, duration, note, size

if TYPE_CHECKING:
    from rich.console import Console

FIRST_NOTE, LONGEST_PAUSE = 5.0, 60.0  # seconds before a line without a terminal
_WINDOW = 30.0  # seconds over which the rate is taken
_SAMPLE = 0.5  # seconds between samples of the rate
_BAR = 24  # columns
_PATIENCE = 1.0  # seconds that a wait takes before it shows on a terminal
BYTES = "bytes"


class Pauses:
    """When the next line is due."""

    def __init__(self) -> None:
        self.seconds, self._last = FIRST_NOTE, time.monotonic()

    def over(self) -> bool:
        """Return whether a line is due. The next pause is twice as long then."""
        now = time.monotonic()
        if now - self._last < self.seconds:
            return False
        self.seconds, self._last = min(2 * self.seconds, LONGEST_PAUSE), now
        return True


class Progress:
    """What is done, with its rate and the time left, as text.

    Args:
        unit: of what is counted, such as `rows`. `BYTES` are shown as KiB, MiB or GiB.
    """

    def __init__(self, unit: str) -> None:
        self._unit = unit
        self._samples: deque[tuple[float, float, float]] = deque([(time.monotonic(), 0.0, 0.0)])

    def text(self, done: float, total: float | None, count: float, said: str) -> str:
        """Return such as `1,200 rows, 400/s, 10s left`."""
        now = time.monotonic()
        samples = self._samples
        if now - samples[-1][0] >= _SAMPLE:
            samples.append((now, done, count))
            while len(samples) > 2 and now - samples[1][0] >= _WINDOW:
                samples.popleft()
        began, done_then, count_then = samples[0]
        seconds = max(now - began, 0.001)
        parts = [said or self._counted(count), self._rate((count - count_then) / seconds)]
        speed = (done - done_then) / seconds
        if total is not None and 0 < done < total and speed > 0:
            parts.append(f"{duration((total - done) / speed)} left")
        return ", ".join(filter(None, parts))

    def _counted(self, count: float) -> str:
        return size(int(count)) if self._unit == BYTES else f"{count:,.0f} {self._unit}"

    def _rate(self, rate: float) -> str:
        if rate <= 0:
            return ""
        if self._unit == BYTES:
            return f"{size(int(rate))}/s"
        return f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.1f}/s"


class Shown:
    """Shows how far something has come. `progress` provides one.

    Args:
        label: what is done, such as `exporting`.
        unit: of what is counted.
        draw: shows a share from 0 to 1, None if it is not known, and a text. None: lines are printed.
    """

    def __init__(self, label: str, unit: str, draw: Callable[[float | None, str], None] | None) -> None:
        self._label, self._draw = label, draw
        self._progress, self._pauses, self._last = Progress(unit), Pauses(), ""

    def __call__(
        self, done: float, total: float | None = None, count: float | None = None, said: str = ""
    ) -> None:
        """Show how much is done.

        Args:
            done: of `total`, as far as that is known.
            total: when everything is done.
            count: what is counted and has a rate, if it is not `done`.
            said: shown instead of `count`.
        """
        if self._draw is None and not self._pauses.over():
            return
        text = self._progress.text(done, total, done if count is None else count, said)
        share = min(done / total, 1.0) if total else None
        if self._draw is not None:
            self._draw(share, text)
            return
        line = f"{self._label}: {'' if share is None else f'{share:.0%}, '}{text}"
        if line != self._last:
            self._last = line
            note(line)


@contextmanager
def progress(label: str, unit: str, *, bounded: bool = True, prints: bool = False) -> Iterator[Shown]:
    """Provide a `Shown` for something that takes long.

    Args:
        label: what is done, such as `exporting`.
        unit: of what is counted, such as `rows`.
        bounded: the total is known, so that there is a bar.
        prints: meanwhile lines are printed on standard output, which appear above the bar.
    """
    if not on_terminal():
        yield Shown(label, unit, None)
        return
    from rich.progress import BarColumn, ProgressColumn, TextColumn  # noqa: PLC0415 - takes long
    from rich.progress import Progress as Bar  # noqa: PLC0415 - as above

    columns: list[ProgressColumn] = [TextColumn(label)]
    if bounded:
        columns += [BarColumn(_BAR), TextColumn("{task.percentage:>3.0f}%")]
    above = prints and sys.stdout.isatty()  # it may be a pipe
    with Bar(
        *columns, TextColumn("{task.description}"), redirect_stdout=above, console=console(stderr=True)
    ) as bar:
        task = bar.add_task("", total=1)

        def draw(share: float | None, text: str) -> None:
            bar.update(task, completed=share or 0, description=text)

        yield Shown(label, unit, draw)


@contextmanager
def waiting(what: str, *, quiet: bool = False, over: Console | None = None) -> Iterator[None]:
    """Show that the command waits if the body takes long, such as `waiting for the database`.

    On a terminal it shows the seconds so far, and nothing of it stays. Otherwise it prints a line now and
    then. The body prints nothing, or on the console `over` alone.

    Args:
        what: for what it waits.
        quiet: print no lines.
        over: a console on which the body prints.
    """
    ended = threading.Event()
    if on_terminal():
        where = over if over is not None and over.is_terminal else console(stderr=True)
        thread = threading.Thread(target=_tick, args=(what, ended, where), daemon=True)
    else:
        thread = threading.Thread(target=_note_often, args=(what, ended), daemon=True)
    if not quiet or on_terminal():
        thread.start()
    try:
        yield
    finally:
        ended.set()
        if thread.ident is not None:
            thread.join()


def on_terminal() -> bool:
    """Return whether standard error is a terminal that can draw a line again."""
    return sys.stderr.isatty() and os.environ.get("TERM") != "dumb"


def _tick(what: str, ended: threading.Event, where: Console) -> None:
    if ended.wait(_PATIENCE):
        return
    from rich.progress import Progress as Bar  # noqa: PLC0415 - takes long
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415 - as above

    columns = (SpinnerColumn(), TextColumn(what), TimeElapsedColumn())
    with Bar(*columns, transient=True, console=where, redirect_stdout=False, redirect_stderr=False) as bar:
        bar.add_task("", total=None)
        ended.wait()


def _note_often(what: str, ended: threading.Event) -> None:
    began, pause = time.monotonic(), FIRST_NOTE
    while not ended.wait(pause):
        note(f"{what}, {duration(time.monotonic() - began)} so far")
        pause = min(2 * pause, LONGEST_PAUSE)
