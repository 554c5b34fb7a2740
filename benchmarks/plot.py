"""Draw `docs/benchmarks.svg` from `benchmarks/results.json`: `python -m benchmarks.plot`."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from benchmarks.report import ROOT, TIMES, Record, bare, is_limit, load, peer, unit
from benchmarks.row import figure

PATH = ROOT / "docs" / "benchmarks.svg"
WIDTH, LEFT, START, END = (
    1000,
    24,
    330,
    670,
)  # of the picture: labels, bars; figures are right of the bars
TOP, HEADING, LINE, THICK = 128, 34, 24, 15  # from the top to the first heading; heights
STEPS = (1, 2, 5)  # multiples of powers of ten at which the axis may begin and end
PEERS = {
    "fastapi": "FastAPI, storing nothing",
    "crossbar": "Crossbar.io, storing nothing",
    "naive": "naive gateway, same work",
    "bare_sqlite": "bare SQLite, writing the same rows",
    "celery": "Celery on Redis",
    "taskiq": "taskiq on Redis",
    "dramatiq": "dramatiq on Redis",
    "run_in_executor": "run_in_executor, threads",
    "loop": "a bare loop on one core",
    "bare": "a bare ASGI loop",
    "socketio": "Socket.IO",
    "busway_small": "10,000 stored",
}
VERDICTS = {"aim": "reaches its aim", "must": "meets the requirement", "missed": "misses the requirement"}
STYLE = """
  svg { --back: #fff; --ink: #12344d; --soft: #4a6375; --line: #dbe4ea;
    --aim: #2f9e6e; --must: #4b8fc4; --missed: #d9622b }
  @media (prefers-color-scheme: dark) {
    svg { --back: #0f1720; --ink: #e6eef4; --soft: #9fb3c1; --line: #273642;
      --aim: #37b581; --must: #5ea3da; --missed: #ee7c47 }
  }
  text { fill: var(--ink); stroke: var(--back); stroke-width: 4px; paint-order: stroke }
  .back { fill: var(--back) } .soft { fill: var(--soft) } .strong { font-weight: 650 }
  .end { text-anchor: end }
  .grid { stroke: var(--line) } .one { stroke: var(--soft); stroke-dasharray: 3 3 }
  .tick { stroke: var(--ink); stroke-width: 2.5 }
  .aim { fill: var(--aim) } .must { fill: var(--must) } .missed { fill: var(--missed) }
"""


@dataclass(frozen=True)
class Bar:
    """One comparison.

    Attributes:
        label: the peer.
        better: how many times better Busway is; None for a plain limit, which gets no bar.
        must: the required ratio.
        shown: the text at the bar's end.
        facts: the compared figures.
        verdict: as in `VERDICTS`.
    """

    label: str
    better: float | None
    must: float
    shown: str
    facts: str
    verdict: str


@dataclass(frozen=True)
class Axis:
    """A logarithmic axis from `low` to `high`."""

    low: float
    high: float

    def x(self, value: float) -> float:
        """Return the position of a value."""
        share = math.log(value / self.low) / math.log(self.high / self.low)
        return round(START + min(1.0, max(0.0, share)) * (END - START), 1)

    def powers(self) -> list[float]:
        """Return its powers of ten."""
        found = range(math.ceil(math.log10(self.low)), math.floor(math.log10(self.high)) + 1)
        return [10.0**power for power in found]


def draw() -> None:
    """Write the picture of the kept results."""
    PATH.write_text(picture(load()))


def picture(results: Record) -> str:
    """Return the picture."""
    rows = {name: (of["title"], list(bars(of))) for name, of in results["rows"].items()}
    rows = {name: row for name, row in rows.items() if row[1]}
    every = [bar for _, some in rows.values() for bar in some]
    axis = axis_of(every)
    bottom = TOP + HEADING * len(rows) + LINE * len(every) + 10
    parts = [*_head(every, bottom + 52), *_grid(axis, bottom)]
    y = TOP
    for name, (title, some) in rows.items():
        parts += _row(name, title, y, axis, some)
        y += HEADING + LINE * len(some)
    parts += [*_foot(results, bottom + 34), "</svg>"]
    return "\n".join(parts) + "\n"


def bars(of: Record) -> Iterator[Bar]:
    """Yield the bars of a row."""
    several = len({each["metric"] for each in of["comparisons"] if not is_limit(each)}) > 1
    for each in of["comparisons"]:
        if each["ratio"] is not None:
            yield _limit(each) if is_limit(each) else _compared(each, named=several)


def _limit(each: Record) -> Bar:
    metric = unit(each["metric"])
    facts = f"{'at most' if each['at_most'] else 'at least'} {each['must']:g} {metric}"
    label = bare(each["metric"])
    return Bar(label, None, 1.0, f"{figure(each['ours'])} {metric}", facts, each["verdict"])


def _compared(each: Record, *, named: bool) -> Bar:
    """Return a bar that is longer for better figures, also where less is better."""
    better, must = each["ratio"], each["must"]
    if each["at_most"]:
        better, must = 1 / better, 1 / must
    label = PEERS.get(peer(each), peer(each))
    if len(each["beside"]) > 1:
        label += f", best of {len(each['beside'])}"
    if named:
        label = f"{bare(each['metric'])}, beside {label}"
    facts = f"{figure(each['ours'])} beside {figure(each['theirs'])} {unit(each['metric'])}"
    less = ", less is better" if each["at_most"] else ""
    return Bar(label, better, must, f"{figure(better)}{TIMES}", facts + less, each["verdict"])


def axis_of(every: list[Bar]) -> Axis:
    """Return an axis that has room for all bars."""
    values = [value for bar in every if bar.better is not None for value in (bar.better, bar.must)]
    low, high = min([*values, 0.5]), max([*values, 2.0])
    steps = [step * 10.0**power for power in range(-6, 7) for step in STEPS]
    return Axis(max(s for s in steps if s < low), min(s for s in steps if s >= high))


def _head(every: list[Bar], height: int) -> Iterator[str]:
    told = "; ".join(f"{bar.label}: {bar.shown}, {bar.facts}" for bar in every)
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'font-family="system-ui, sans-serif" font-size="13.5" aria-labelledby="title description">'
    )
    yield '<title id="title">Busway beside alternatives</title>'
    yield f'<desc id="description">{escape(told)}</desc>'
    yield f"<style>{STYLE}</style>"
    yield f'<rect class="back" width="{WIDTH}" height="{height}" rx="12"/>'
    yield _text(LEFT, 40, "Busway beside alternatives", "strong", size=20)
    yield _text(LEFT, 64, "How many times better, on a logarithmic scale: longer is better.", "soft")
    x = float(LEFT)
    for verdict, words in VERDICTS.items():
        yield f'<rect class="{verdict}" x="{x:g}" y="79" width="13" height="13" rx="3"/>'
        yield _text(x + 20, 90, words, "soft")
        x += 44 + 6.9 * len(words)
    yield f'<path class="tick" d="M{x:g} 77v17"/>' + _text(x + 9, 90, "requirement", "soft")


def _grid(axis: Axis, bottom: int) -> Iterator[str]:
    for value in axis.powers():
        x = axis.x(value)
        yield f'<path class="{"one" if value == 1 else "grid"}" d="M{x:g} {TOP - 6}V{bottom - 4}"/>'
        yield _text(x, TOP - 12, f"{value:g}{TIMES}", "soft", anchor="middle")


def _row(name: str, title: str, y: int, axis: Axis, some: list[Bar]) -> Iterator[str]:
    yield (
        f'<text x="{LEFT}" y="{y + 22}"><tspan class="strong">{escape(name.replace("_", " "))}</tspan>'
        f'<tspan class="soft" dx="8">{escape(title)}</tspan></text>'
    )
    for place, bar in enumerate(some):
        yield from _bar(y + HEADING + place * LINE, axis, bar)


def _bar(y: int, axis: Axis, bar: Bar) -> Iterator[str]:
    end = START if bar.better is None else axis.x(bar.better)
    yield _text(START - 12, y + 12, bar.label, "end")
    if bar.better is not None:
        width, must = max(2.0, end - START), axis.x(bar.must)
        yield f'<rect class="{bar.verdict}" x="{START}" y="{y}" width="{width:g}" height="{THICK}" rx="3"/>'
        yield f'<path class="tick" d="M{must:g} {y - 2}v{THICK + 4}"/>'
        end = max(end, must)
    else:
        yield f'<circle class="{bar.verdict}" cx="{START + 6}" cy="{y + 7.5}" r="6"/>'
        end += 12
    missed = ", missed" if bar.verdict == "missed" else ""
    yield (
        f'<text x="{end + 9:g}" y="{y + 12}"><tspan class="strong">{escape(bar.shown)}{missed}</tspan>'
        f'<tspan class="soft" dx="9">{escape(bar.facts)}</tspan></text>'
    )


def _foot(results: Record, y: int) -> Iterator[str]:
    machine = results["machine"]
    words = (
        f"Medians of alternating rounds. {machine['cpu']}, {machine['cores']} cores, Python "
        f"{machine['python']}, SQLite {machine['sqlite']}, {results.get('date', '')}. Again: make bench"
    )
    yield _text(LEFT, y, words, "soft", size=12)


def _text(x: float, y: float, words: str, kind: str, *, size: float = 0, anchor: str = "") -> str:
    more = (f' font-size="{size:g}"' if size else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return f'<text class="{kind}" x="{x:g}" y="{y:g}"{more}>{escape(words)}</text>'


if __name__ == "__main__":
    draw()
