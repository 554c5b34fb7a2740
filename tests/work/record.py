"""Record what is expected: `make counted`. All is counted five times; the medians are what is expected."""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from tests.work.counting import COUNTERS, Found
from tests.work.figures import EXPECTED, Figure, Recorded, python

ROUNDS = 5
Entry = dict[str, float]


def main() -> None:
    """Count, write `expected.json`, and say what changed."""
    before = Recorded.load().counted if EXPECTED.exists() else {}
    counted: dict[str, dict[str, Entry]] = {}
    for way in COUNTERS:
        rounds = [_round(way, number) for number in range(1, ROUNDS + 1)]
        counted[way] = {str(figure): _entry(figure, [r[figure] for r in rounds]) for figure in rounds[0]}
    Recorded(python(), counted).save()
    for way, figures in counted.items():
        for name, entry in figures.items():
            print(_line(name, entry, before.get(way, {}).get(name)))


def _round(way: str, number: int) -> Found:
    print(f"counting {way}, {number} of {ROUNDS}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        return COUNTERS[way](Path(folder))


def _entry(figure: Figure, values: list[float]) -> Entry:
    value = statistics.median(values)
    spread = (max(values) - min(values)) / value * 100 if value else 0.0
    return {
        "an_event": round(value, 3),
        "margin_percent": figure.margin,
        "spread_percent": round(spread, 2),
    }


def _line(name: str, entry: Entry, before: Entry | None) -> str:
    was = f"was {before['an_event']:g}" if before else "new"
    unsteady = entry["spread_percent"] > entry["margin_percent"]
    advice = "  unsteady: record again while the machine does nothing else" if unsteady else ""
    return f"{name:<46} {entry['an_event']:>10g}  {was:<14} spread {entry['spread_percent']:g} %{advice}"


if __name__ == "__main__":
    main()
