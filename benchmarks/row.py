"""What a row of the benchmark is, and how its sides take turns.

A side is one thing that is measured: Busway, or a peer that does the same work. All sides of a row are
started, then measured turn about for some rounds, so that what else the machine does befalls all alike.
What is said of a side is the median of its rounds; a comparison divides two such medians.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field

Reading = dict[str, float]
"""What one round found, by the metric's name, each with its unit in the name: `p50_ms`, `events_per_s`."""

Once = Callable[[float], Reading]
"""Measures one round. It is told what part of its usual time or amount to take: 1.0, or less in a hurry."""

Say = Callable[[str], None]
"""Shows progress, one line at a time."""

OURS = "busway"


class Missing(Exception):
    """A side cannot be measured on this machine; the text says why, for the report."""


@dataclass(frozen=True)
class Side:
    """One thing that is measured.

    Attributes:
        name: As the report names it: `busway`, `crossbar`.
        settings: What it is and the settings it ran with, in words, for the report.
        open: Starts it and gives the function that measures one round; ends it afterwards. Raises `Missing`.
        alone: It is started for its round and ended after it, because it would disturb the others.
    """

    name: str
    settings: str
    open: Callable[[], AbstractContextManager[Once]]
    alone: bool = False


@dataclass(frozen=True)
class Comparison:
    """A promise about two medians: ours divided by theirs.

    Attributes:
        metric: Which metric of Busway's side.
        beside: The sides it is compared with; of several the best one is the one to beat. Empty: `theirs`
            says with what.
        must: The ratio that has to be reached.
        aim: The ratio that is wished for.
        at_most: True where less is better (latency, memory): the ratio must not be above `must`.
        theirs: The peers' metric, where it has another name; without peers, another metric of our own
            side or a plain number.
        side: Whose metric is compared, where it is not Busway's first side.
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

    def theirs(self, comparison: Comparison) -> tuple[str, float] | None:
        """Return what is to be beaten: the best measured side of those it is beside, and its median.

        The name is Busway's own side where another metric of it is to be beaten, and empty for a number.
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
        """Ours divided by theirs, or None if one of them was not measured."""
        ours, theirs = self.median(comparison.side, comparison.metric), self.theirs(comparison)
        return ours / theirs[1] if ours is not None and theirs and theirs[1] else None


def figure(value: float) -> str:
    """Return a value as people read it, with three significant digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def measure(row: Row, say: Say, effort: float = 1.0) -> Found:
    """Start all sides, let them take turns, end them. What is missing is told and left out."""
    found = Found(row)
    with ExitStack() as stack:
        turns: dict[str, Once] = {}
        for side in row.sides:
            with _left_out(side.name, found, say):
                turns[side.name] = _alone(side) if side.alone else stack.enter_context(side.open())
                say(f"{row.name}: {side.name} is there")
        for turn in range(row.rounds):
            for name in [name for name in turns if name not in found.missing]:
                with _left_out(name, found, say):
                    reading = turns[name](effort)
                    found.readings.setdefault(name, []).append(reading)
                    shown = ", ".join(f"{metric} {figure(value)}" for metric, value in reading.items())
                    say(f"{row.name}: round {turn + 1} of {row.rounds}, {name}: {shown}")
    return found


@contextmanager
def _left_out(name: str, found: Found, say: Say) -> Iterator[None]:
    """Note that a side is missing, or that a peer broke off, whatever it raised; the others go on.

    An error of Busway's own side is raised: without it the row says nothing.
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
