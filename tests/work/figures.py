"""What is counted, how far a figure may be off, and what to say when it is off further."""

from __future__ import annotations

import json
import platform
import sqlite3
from pathlib import Path
from typing import NamedTuple

EXPECTED = Path(__file__).parent / "expected.json"
ROUNDING = 0.005  # of an event: more than three decimals lose, and much less than one more of anything
MORE = (
    "An event costs more of this than before: look for what was added to its way. If that is meant, say\n"
    "  why in the commit, record the figures anew with `make counted`, and commit tests/work/expected.json."
)
LESS = "less of an event than recorded: `make counted` records it, so that the gain is kept"
ONE_BY_ONE, AT_ONCE = "one by one", "at once"


class Unit(NamedTuple):
    """A thing that can be counted: what it is, and by how many percent a figure of it may be off.

    `at_once` is more than `one_by_one` where it depends on how a busy gateway groups its work. `elsewhere` is
    the least margin on another Python than that of the recording, None if it is not compared there.
    """

    meaning: str
    one_by_one: float
    at_once: float = 0.0
    elsewhere: float | None = 0.0


UNITS = {
    "bytecode instructions": Unit("steps of the Python interpreter", 3, 6, None),
    "Python calls": Unit("Python functions entered or resumed", 4, 10, 25),
    "C calls": Unit("functions written in C that Python code called", 3, 4, 10),
    "encodings": Unit("times that msgspec was asked to encode something", 0, 2),
    "decodings": Unit("times that msgspec was asked to decode something", 0, 2),
    "SQL statements": Unit("statements that SQLite ran, each row of an executemany counted", 0, 2),
    "commits": Unit("transactions committed", 0, 40),
    "log pages": Unit("pages written to SQLite's write-ahead log", 5, 25),
    "sends": Unit("system calls that write to a socket, a pipe or an eventfd", 3),
    "receives": Unit("system calls that read from a socket, a pipe or an eventfd", 5),
    "file writes": Unit("system calls that write to a file", 5),
    "syncs": Unit("times that a file was synced to disk", 0),
    "system calls": Unit("system calls of any kind but those for memory, locks and waiting", 15, 0, 20),
    "machine instructions": Unit("instructions of the processor, as callgrind counts them", 2, 5, 30),
}


class Figure(NamedTuple):
    """What one kind of process does for one event, while events are published in one of the two ways."""

    script: str
    process: str
    unit: str

    def __str__(self) -> str:
        return f"{self.script}, {self.process}: {self.unit}"

    @property
    def margin(self) -> float:
        """In percent of what is expected."""
        unit = UNITS[self.unit]
        return unit.one_by_one if self.script == ONE_BY_ONE else unit.at_once


class Recorded(NamedTuple):
    """`expected.json`: which Python it was recorded with, and by the way of counting what each figure was."""

    python: str
    counted: dict[str, dict[str, dict[str, float]]]

    @classmethod
    def load(cls) -> Recorded:
        """Read the file."""
        return cls(**json.loads(EXPECTED.read_text(encoding="utf-8")))

    def save(self) -> None:
        """Write the file."""
        EXPECTED.write_text(json.dumps(self._asdict(), indent=2) + "\n", encoding="utf-8")


def python() -> str:
    """Name what runs this, as far as figures depend on it and lock files do not fix it."""
    parts = (
        f"Python {platform.python_version()}",
        platform.python_compiler(),
        " ".join(platform.libc_ver()),
        f"SQLite {sqlite3.sqlite_version}",
        platform.machine(),
    )
    return ", ".join(parts)


class Verdict(NamedTuple):
    """What a count says beside what was recorded; both are None if it is as expected."""

    worse: str | None = None
    better: str | None = None


def verdict(figure: Figure, recorded: dict[str, float], found: float, *, elsewhere: bool) -> Verdict:
    """Say what is wrong with a figure and what to do about it, or that it can be recorded anew.

    Args:
        figure: what was counted.
        recorded: what is expected of it.
        found: an event.
        elsewhere: this Python is not that of the recording.
    """
    value, margin = recorded["an_event"], _margin(figure, recorded["margin_percent"], elsewhere=elsewhere)
    if margin is None or abs(found - value) <= value * margin / 100 + ROUNDING:
        return Verdict()
    difference = f", {(found - value) / value:+.1%}" if value else ""
    if found < value:
        return Verdict(better=f"{figure}: {found:.3f}, was {value:g}{difference}")
    return Verdict(
        f"{figure}\n"
        f"  counted:  {UNITS[figure.unit].meaning}, in the {figure.process}, an event\n"
        f"  expected: {value:g}, and up to {margin:g} % more\n"
        f"  found:    {found:.3f}{difference}\n"
        f"  {MORE}"
    )


def _margin(figure: Figure, stated: float, *, elsewhere: bool) -> float | None:
    if not elsewhere:
        return stated
    wider = UNITS[figure.unit].elsewhere
    return None if wider is None else max(stated, wider)
