"""The results of a run: tables to read, and `benchmarks/results.json` to keep.

A row becomes a record, a plain dict of JSON values. Tables, file and plot are made from records.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import sqlite3
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.row import Comparison, Found, Reading, figure

ROOT = Path(__file__).resolve().parents[1]
PATH = ROOT / "benchmarks" / "results.json"
DIGITS = 4  # significant digits of a kept figure
UNITS = {"per_s": "/s", "ms": "ms", "us": "µs", "s": "s"}  # suffixes of metric names
TIMES = "\N{MULTIPLICATION SIGN}"
HEAD = ("row", "metric", "Busway", "beside", "theirs", "ratio", "must", "aim", "reached")

Record = dict[str, Any]


class OtherMachine(Exception):
    """The kept results are from another machine, so single rows cannot replace some of them."""


def record(found: Found) -> Record:
    """Return the record of a row."""
    names = [side.name for side in found.row.sides]
    made: Record = {
        "title": found.row.title,
        "date": _today(),
        "sides": {name: _side(found, name) for name in names},
        "comparisons": [_compared(found, comparison) for comparison in found.row.comparisons],
    }
    ours = {comparison.side for comparison in found.row.comparisons}
    gone = [f"without {name}: {one_line(why)}" for name, why in found.missing.items() if name in ours]
    return made | ({"failed": "; ".join(gone)} if gone else {})


def _today() -> str:
    return dt.datetime.now(dt.UTC).date().isoformat()


def _side(found: Found, name: str) -> Record:
    settings = next(side.settings for side in found.row.sides if side.name == name)
    readings = found.readings.get(name, [])
    made: Record = {"settings": settings}
    if name in found.missing:
        made["missing"] = one_line(found.missing[name])
    if readings:
        metrics = list(dict.fromkeys(metric for reading in readings for metric in reading))
        made["medians"] = _rounded({metric: found.median(name, metric) or 0.0 for metric in metrics})
        made["rounds"] = [_rounded(reading) for reading in readings]
    return made


def _compared(found: Found, comparison: Comparison) -> Record:
    ours, ratio = found.median(comparison.side, comparison.metric), found.ratio(comparison)
    side, theirs = found.theirs(comparison) or (None, None)
    named = isinstance(comparison.theirs, str)
    return {
        "metric": comparison.metric,
        "side": comparison.side,
        "ours": _round(ours),
        "beside": list(comparison.beside),
        "best": side or None,
        "theirs_metric": comparison.theirs if named else comparison.metric,
        "theirs": _round(theirs),
        "ratio": _round(ratio),
        "at_most": comparison.at_most,
        "must": comparison.must,
        "aim": comparison.aim,
        "verdict": verdict(comparison, ratio),
    }


def verdict(comparison: Comparison, ratio: float | None) -> str:
    """Return `aim`, `must` or `missed`, by what the ratio reached, or `not measured`."""
    if ratio is None:
        return "not measured"
    for name, limit in (("aim", comparison.aim), ("must", comparison.must)):
        if ratio <= limit if comparison.at_most else ratio >= limit:
            return name
    return "missed"


def _round(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.{DIGITS}g}")


def _rounded(reading: Reading) -> Reading:
    return {metric: float(f"{value:.{DIGITS}g}") for metric, value in reading.items()}


def one_line(why: str) -> str:
    """Return a reason on one line, without paths of this machine."""
    for folder, name in ((Path(sys.prefix).parent, ".venv"), (ROOT, "."), (Path.home(), "~")):
        why = why.replace(str(folder), name)
    words = " ".join(why.split())
    return words if len(words) <= 300 else f"{words[:100]} … {words[-200:]}"


def text(records: dict[str, Record], accounted: Record | None) -> str:
    """Return the tables in Markdown, with the settings of each side."""
    parts = []
    if records:
        parts.append(markdown(HEAD, [line for name in records for line in _lines(name, records[name])]))
        parts += [_sides(name, each) for name, each in records.items()]
    if accounted is not None:
        parts.append(_account(accounted))
    return "\n\n".join(parts)


def _lines(name: str, of: Record) -> Iterable[Sequence[str]]:
    if "failed" in of:
        yield (name, "", "", "", "", "", "", "", "failed")
    for each in of["comparisons"]:
        if each["verdict"] != "not measured" or "failed" not in of:
            yield (name, spoken(each["metric"]), _shown(each["ours"]), *_beside(each), each["verdict"])


def _beside(each: Record) -> Sequence[str]:
    """Return the fields of a comparison, from `beside` to `aim`."""
    sign = "≤" if each["at_most"] else "≥"
    limits = [f"{sign} {each[limit]:g}" for limit in ("must", "aim")]
    if is_limit(each):
        return ("", "", "", *limits)
    ratio = f"{figure(each['ratio'])}{TIMES}" if each["ratio"] is not None else ""
    return (peer(each), _shown(each["theirs"]), ratio, *(limit + TIMES for limit in limits))


def is_limit(each: Record) -> bool:
    """Return whether `must` and `aim` are plain limits: the comparison is with the number 1."""
    return not each["beside"] and each["best"] is None and each["theirs"] == 1.0


def peer(each: Record) -> str:
    """Return the name of the peer."""
    if each["beside"]:
        return each["best"] or ", ".join(each["beside"])
    return "the ideal" if each["best"] is None else f"its {bare(each['theirs_metric'])}"


def spoken(metric: str) -> str:
    """Return a metric's name as text with its unit: `idle_p50_ms` is `idle p50, ms`."""
    for end, unit in UNITS.items():
        if metric.endswith(f"_{end}"):
            name = metric.removesuffix(f"_{end}").replace("_", " ")
            return name + unit if unit.startswith("/") else f"{name}, {unit}"
    return metric.replace("_", " ").replace("kib", "KiB")


def _said(metric: str, value: float) -> str:
    """Return a metric with its value: `idle p50 1.2 ms`."""
    name, _, unit_behind = spoken(metric).partition(", ")
    return f"{name} {figure(value)} {unit_behind}".rstrip()


def bare(metric: str) -> str:
    """Return a metric's name as text, without its unit."""
    return spoken(metric).partition(", ")[0]


def unit(metric: str) -> str:
    """Return the unit in a metric's name: `events/s`, `ms`."""
    said = spoken(metric)
    return said.rpartition(", ")[2].rpartition(" ")[2] if said != "KiB each" else "KiB"


def _shown(value: float | None) -> str:
    return "" if value is None else figure(value)


def _sides(name: str, of: Record) -> str:
    """Return the settings and medians of each side."""
    lines = [f"**{name}**: {of['title']}"]
    if "failed" in of:
        lines.append(f"- failed: {of['failed']}")
    for side, known in of["sides"].items():
        lines.append(f"- {side}: {known['settings']}")
        if "missing" in known:
            lines.append(f"  missing: {known['missing']}")
        medians = known.get("medians", {}).items()
        if medians:
            lines.append("  " + "; ".join(_said(metric, value) for metric, value in medians))
    return "\n".join(lines)


def _account(of: Record) -> str:
    """Return the account of CPU time."""
    if "failed" in of:
        return f"account failed: {of['failed']}"
    lines = [
        (process, figure(cpu["user_us"]), figure(cpu["system_us"]), figure(cpu["user_us"] + cpu["system_us"]))
        for process, cpu in of["processes"].items()
    ]
    parts = [
        f"**account**: CPU microseconds an event, at {figure(of['events_per_s'])} events/s",
        markdown(("process", "user", "system", "both"), lines),
    ]
    if "parts_missing" in of:
        return "\n\n".join([*parts, f"not measured by part: {of['parts_missing']}"])
    shares = [
        (process, part, f"{found['share']:.0%}", figure(found["us"]))
        for process, found_parts in of["parts"].items()
        for part, found in found_parts.items()
    ]
    return "\n\n".join([*parts, markdown(("process", "where", "share", "µs"), shares)])


def markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table with aligned columns."""
    widths = [max(map(len, column)) for column in zip(head, *lines, strict=True)]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in (head, rule, *lines)
    )


def machine() -> Record:
    """Return the properties of the machine that figures depend on, without its name."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.machine()


def load() -> Record:
    """Return the kept results, empty if there are none."""
    if not PATH.exists():
        return {"machine": machine(), "rows": {}}
    return json.loads(PATH.read_text())  # type: ignore[no-any-return]


def save(
    records: dict[str, Record], accounted: Record | None, order: Sequence[str], *, replaces: bool
) -> None:
    """Save records in order. If `replaces`, they replace all kept ones, else only those of the same rows.

    Raises:
        OtherMachine: the kept ones are from another machine.
    """
    old = {"rows": {}} if replaces else load()
    here = machine()
    if old.get("machine", here) != here:
        raise OtherMachine(f"{PATH.name} is from another machine; only a run of all rows can replace it")
    rows = old["rows"] | records
    made = {
        "machine": here,
        "date": _today(),
        "effort": 1.0,
        "rows": {name: rows[name] for name in order if name in rows},
    }
    account = old.get("account") if accounted is None else accounted
    if account is not None:
        made["account"] = account
    PATH.write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")
