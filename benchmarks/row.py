"""What a row of the benchmark is, and how its sides take turns.

A side is one thing that is measured: Busway, or a peer that does the same work. All sides of a row are
started, then measured turn about for some rounds, so that what else the machine does befalls all alike.
What is said of a side is the median of its rounds; a comparison divides two such medians.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field

Reading = dict[str, float]
"""What one round found, by the metric's name, each with its unit in the name: `p50_ms`, `events_per_s`."""

Say = Callable[[str], None]
"""Shows progress, one line at a time."""


class Missing(Exception):
    """A side cannot be measured on this machine; the text says why, for the report."""


@dataclass(frozen=True)
class Side:
    """One thing that is measured.

    Attributes:
        name: As the report names it: `busway`, `crossbar`.
        settings: The settings it ran with, in words, for the report.
        open: Starts it and gives the function that measures one round; ends it afterwards. Raises `Missing`.
    """

    name: str
    settings: str
    open: Callable[[], AbstractContextManager[Callable[[], Reading]]]


@dataclass(frozen=True)
class Comparison:
    """A promise about two medians: ours divided by theirs.

    Attributes:
        metric: Which metric of Busway's side.
        beside: The side it is compared with. None compares `metric` with the plain number `theirs`, or with itself.
        must: The ratio that has to be reached.
        aim: The ratio that is wished for.
        at_most: True where less is better (latency, memory): the ratio must not be above `must`.
        theirs: The peer's metric, where it has another name; or a number.
        best_of: Several sides; the best of them is the one to beat.
        side: Whose metric is compared, where it is not Busway's first side.
    """

    metric: str
    beside: str | None
    must: float
    aim: float
    at_most: bool = False
    theirs: str | float | None = None
    best_of: tuple[str, ...] = ()
    side: str = "busway"


@dataclass(frozen=True)
class Row:
    """One row: its sides, and what must hold between them."""

    name: str
    title: str
    sides: tuple[Side, ...]
    comparisons: tuple[Comparison, ...]
    rounds: int = 3


@dataclass
class Found:
    """What a row found: every reading by side, and why a side is not there."""

    row: Row
    readings: dict[str, list[Reading]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def median(self, side: str, metric: str) -> float | None:
        """The median of a side's rounds, or None if it has none."""
        values = [reading[metric] for reading in self.readings.get(side, []) if metric in reading]
        return statistics.median(values) if values else None


def measure(row: Row, say: Say) -> Found:
    """Start all sides, let them take turns, end them. What is missing is told and left out."""
    found = Found(row)
    with ExitStack() as stack:
        rounds: dict[str, Callable[[], Reading]] = {}
        for side in row.sides:
            say(f"{row.name}: starting {side.name}")
            try:
                rounds[side.name] = stack.enter_context(side.open())
            except Missing as why:
                found.missing[side.name] = str(why)
                say(f"{row.name}: without {side.name}: {why}")
        for turn in range(row.rounds):
            for name, once in rounds.items():
                reading = once()
                found.readings.setdefault(name, []).append(reading)
                shown = ", ".join(f"{metric} {value:,.3g}" for metric, value in reading.items())
                say(f"{row.name}: round {turn + 1} of {row.rounds}, {name}: {shown}")
    return found
