"""Measure rows beside their peers, print the results, and keep them if nothing was shortened.

    python -m benchmarks [ROW …] [--beside SIDE] [--effort PART] [--rounds N]

With any option it is a quick look, and nothing is kept.
"""

from __future__ import annotations

import argparse
import importlib
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import FrameType

from busway.gateway.cli.progress import Shown, progress

from benchmarks import account, plot, report
from benchmarks.account import NAME as ACCOUNT
from benchmarks.report import Record
from benchmarks.row import OURS, Comparison, Found, Row, Say, measure

ROWS = (
    "publish", "ndjson", "end_to_end", "latency", "pools", "cpu", "io", "fanout", "sockets", "growth",
    "blocking", "start", "nodes", "cluster", "failover", "due", "webhooks", "waiting", "access", "hostile",
    "traces",
)  # fmt: skip
QUICK_EFFORT, QUICK_ROUNDS = 0.25, 3  # with --beside: about a minute


class Unknown(Exception):
    """A row or side does not exist; the text lists the existing ones."""


@dataclass(frozen=True)
class Plan:
    """Which rows to measure, and how thoroughly.

    Attributes:
        rows: the rows, narrowed to what was asked for.
        account: whether to make the account of CPU time, too.
        effort: the part of the usual seconds and amounts that a round takes.
        all_rows: no row was chosen, so the results replace all kept ones.
        kept: nothing was shortened, so the results are kept.
    """

    rows: tuple[Row, ...]
    account: bool
    effort: float
    all_rows: bool
    kept: bool


def main() -> None:
    """Run the command line. Exit status: 1 if something failed, 2 for wrong arguments."""
    parser = argparse.ArgumentParser(prog="benchmarks", description="Measure rows beside their peers.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join((*ROWS, ACCOUNT))}")
    parser.add_argument("--beside", metavar="SIDE", help="only this peer, in about a minute")
    parser.add_argument("--effort", type=float, metavar="PART", help="part of the usual time, such as 0.2")
    parser.add_argument("--rounds", type=int, metavar="N", help="how many rounds, instead of each row's own")
    try:
        plan = planned(parser.parse_args())
    except Unknown as problem:
        parser.error(str(problem))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _end)
    try:
        sys.exit(carry_out(plan, time.monotonic()))
    except KeyboardInterrupt:
        sys.exit(130)


def planned(options: argparse.Namespace) -> Plan:
    """Return the plan for what was asked.

    Raises:
        Unknown: there is no such row or side.
    """
    names = [name.replace("-", "_") for name in options.rows] or [*ROWS, ACCOUNT]
    for name in names:
        if name not in (*ROWS, ACCOUNT):
            raise Unknown(f"there is no row {name!r}; there are {', '.join((*ROWS, ACCOUNT))}")
    beside = options.beside
    rows = [_row(name) for name in ROWS if name in names]
    if beside is not None:
        rows = _with(beside, rows, every=bool(options.rows))
    quick = beside is not None
    rounds = options.rounds or (QUICK_ROUNDS if quick else None)
    if rounds is not None:
        rows = [replace(row, rounds=options.rounds or min(row.rounds, rounds)) for row in rows]
    return Plan(
        rows=tuple(rows),
        account=ACCOUNT in names and not quick,
        effort=options.effort or (QUICK_EFFORT if quick else 1.0),
        all_rows=not options.rows,
        kept=not quick and options.rounds is None and options.effort in {None, 1.0},
    )


def _row(name: str) -> Row:
    return importlib.import_module(f"benchmarks.rows.{name}").ROW  # type: ignore[no-any-return]


def _with(beside: str, rows: list[Row], *, every: bool) -> list[Row]:
    """Narrow the rows to one peer. Rows without it are left out, or an error if `every` row must have it."""
    narrowed = []
    for row in rows:
        peers = [side.name for side in row.sides if side.name not in _ours(row)]
        if beside in peers:
            narrowed.append(_narrowed(row, beside))
        elif every:
            raise Unknown(f"row {row.name} has no peer {beside!r}; it has {', '.join(peers) or 'none'}")
    if not narrowed:
        raise Unknown(f"no row has a peer {beside!r}")
    return narrowed


def _ours(row: Row) -> set[str]:
    return {OURS} | {comparison.side for comparison in row.comparisons}


def _narrowed(row: Row, beside: str) -> Row:
    """Return a row with Busway's sides and one peer, and the comparisons that these allow."""

    def kept(comparison: Comparison) -> bool:
        return not comparison.beside or beside in comparison.beside

    return replace(
        row,
        sides=tuple(side for side in row.sides if side.name in _ours(row) | {beside}),
        comparisons=tuple(
            replace(comparison, beside=comparison.beside and (beside,))
            for comparison in row.comparisons
            if kept(comparison)
        ),
    )


def carry_out(plan: Plan, began: float) -> int:
    """Measure, print, keep; return the exit status."""
    records: dict[str, Record] = {}
    accounted: Record | None = None
    total = len(plan.rows) + plan.account
    with progress("measuring", "rows", prints=True) as show:
        for done, row in enumerate(plan.rows):
            say = _saying(began, done, total)
            records[row.name] = _measured(row, plan.effort, say, _following(show, done, total))
        if plan.account:
            show(len(plan.rows), total, 0, "CPU time of an event")
            say = _saying(began, len(plan.rows), total)
            accounted = _caught(lambda: account.take(say, plan.effort), say)
        show(total, total, 0, f"{total} rows")
    print("\n" + report.text(records, accounted))
    if plan.kept:
        _keep(plan, records, accounted)
    failed = [each for each in (*records.values(), accounted or {}) if "failed" in each]
    print(f"\n{total} measured in {time.monotonic() - began:,.0f} s, {len(failed)} failed")
    return 1 if failed else 0


def _keep(plan: Plan, records: dict[str, Record], accounted: Record | None) -> None:
    try:
        report.save(records, accounted, ROWS, replaces=plan.all_rows)
    except report.OtherMachine as why:
        print(f"\nnot kept: {why}")
        return
    plot.draw()
    print(f"\nkept in {report.PATH.relative_to(report.ROOT)}, drawn in {plot.PATH.relative_to(report.ROOT)}")


def _following(show: Shown, done: int, total: int) -> Callable[[float], None]:
    """Return a function that shows how far a row has come."""

    def took(part: float) -> None:
        show(done + part, total, 0, f"row {done + 1} of {total}")

    return took


def _measured(row: Row, effort: float, say: Say, took: Callable[[float], None]) -> Record:
    """Measure a row. An error ends the row, not the run."""
    found = _caught(lambda: report.record(measure(row, say, effort, took)), say)
    return found if "failed" not in found else report.record(Found(row)) | found


def _caught(work: Callable[[], Record], say: Say) -> Record:
    try:
        return work()
    except Exception as error:  # the other rows can still be measured
        why = f"{type(error).__name__}: {error}"
        say(f"failed: {why}")
        return {"failed": report.one_line(why)}


def _saying(began: float, done: int, total: int) -> Say:
    """Return a function that prints progress: the seconds so far and the row's position."""

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {done + 1}/{total}  {line}", flush=True)

    return say


def _end(number: int, _frame: FrameType | None) -> None:
    """Exit by an exception, so that all started processes are ended. Ignore further signals."""
    for each in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
