"""Rows of the benchmark, and how their sides take turns.

A side is one program that is measured: Busway, or a peer that does the same work. All sides of a row are
started, then measured one after another for several rounds, so that other load on the machine affects all of
them. The figure of a side is the median of its rounds; a comparison divides two medians.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field

Reading = dict[str, float]
"""The figures of one round by metric; the metric's name has the unit: `p50_ms`, `events_per_s`."""

Once = Callable[[float], Reading]
"""Measures one round. Its argument is the part of the usual time or amount to take, 1.0 or less."""

Say = Callable[[str], None]
"""Prints progress, one line at a time."""

OURS = "busway"


class Missing(Exception):
    """A side cannot be measured on this machine; the report shows the text."""


@dataclass(frozen=True)
class Side:
    """One program that is measured.

    Attributes:
        name: Its name in the report: `busway`, `crossbar`.
        settings: Its description and settings, for the report.
        open: Starts it, yields the function that measures one round, and ends it. Raises `Missing`.
        alone: It runs only during its rounds, because it would disturb the others.
    """

    name: str
    settings: str
    open: Callable[[], AbstractContextManager[Once]]
    alone: bool = False


@dataclass(frozen=True)
class Comparison:
    """A requirement for a ratio of two medians: Busway's divided by the peer's.

    Attributes:
        metric: Which metric of Busway's side.
        beside: The peers; of several, the best one counts. Empty: `theirs` gives the other figure.
        must: The required ratio.
        aim: The wanted ratio.
        at_most: True where less is better (latency, memory): the ratio must not be above `must`.
        theirs: The peers' metric, if it has another name; without peers, another metric of Busway's
            side or a plain number.
        side: The side whose metric is compared, if not Busway's first side.
    """

    metric: str
    beside: tuple[str, ...]
    must: float
    aim: float
    at_most: bool = False
    theirs: str | float | None = None
    side: str = OURS


@dataclass(frozen=True)
class Row:
    """One row: its sides and their comparisons."""

    name: str
    title: str
    sides: tuple[Side, ...]
    comparisons: tuple[Comparison, ...]
    rounds: int = 3


@dataclass
class Found:
    """The readings of a row by side, and why a side is missing."""

    row: Row
    readings: dict[str, list[Reading]] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def median(self, side: str, metric: str) -> float | None:
        """Return the median of a side's rounds, or None if it has none."""
        values = [reading[metric] for reading in self.readings.get(side, []) if metric in reading]
        return statistics.median(values) if values else None

    def theirs(self, comparison: Comparison) -> tuple[str, float] | None:
        """Return the best measured peer and its median.

        The name is Busway's own side if another metric of it is compared, and empty for a number.
        """
        if isinstance(comparison.theirs, float | int):
            return "", float(comparison.theirs)
        metric = comparison.theirs or comparison.metric
        found = {side: self.median(side, metric) for side in comparison.beside or (comparison.side,)}
        measured = [(value, side) for side, value in found.items() if value is not None]
        if not measured:
            return None
        value, side = min(measured) if comparison.at_most else max(measured)
        return side, value

    def ratio(self, comparison: Comparison) -> float | None:
        """Return Busway's median divided by the peer's, or None if one of them was not measured."""
        ours, theirs = self.median(comparison.side, comparison.metric), self.theirs(comparison)
        return ours / theirs[1] if ours is not None and theirs and theirs[1] else None


def figure(value: float) -> str:
    """Return a value as text with three significant digits, or all digits of its integer part."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def measure(row: Row, say: Say, effort: float = 1.0, took: Callable[[float], None] | None = None) -> Found:
    """Start all sides, measure them in turn, end them. Missing sides are reported and left out.

    `took`: called after each turn with the part of the row that is done.
    """
    found = Found(row)
    with ExitStack() as stack:
        turns: dict[str, Once] = {}
        for side in row.sides:
            with _left_out(side.name, found, say):
                turns[side.name] = _alone(side) if side.alone else stack.enter_context(side.open())
                say(f"{row.name}: {side.name} is there")
        for turn in range(row.rounds):
            if took is not None:
                took(turn / row.rounds)
            for name in [name for name in turns if name not in found.missing]:
                with _left_out(name, found, say):
                    reading = turns[name](effort)
                    found.readings.setdefault(name, []).append(reading)
                    shown = ", ".join(f"{metric} {figure(value)}" for metric, value in reading.items())
                    say(f"{row.name}: round {turn + 1} of {row.rounds}, {name}: {shown}")
    return found


@contextmanager
def _left_out(name: str, found: Found, say: Say) -> Iterator[None]:
    """Record that a side is missing or that a peer stopped with an error; the others continue.

    An error of Busway's own side is raised, because the row means nothing without it.
    """
    try:
        yield
    except Missing as why:
        found.missing[name] = str(why)
    except Exception as error:
        if name.startswith(OURS):
            raise
        found.missing[name] = f"it broke off: {type(error).__name__}: {error}"
    else:
        return
    say(f"{found.row.name}: without {name}: {found.missing[name]}")


def _alone(side: Side) -> Once:
    def once(effort: float) -> Reading:
        with side.open() as measured:
            return measured(effort)

    return once
