"""Measure the rows: `python -m benchmarks [ROW …] [--beside SIDE] [--rounds N]`."""

from __future__ import annotations

import argparse
import importlib
import time

from benchmarks.row import OURS, Found, Row, measure

ROWS = ("publish", "end_to_end", "latency", "pools", "cpu", "io", "fanout", "sockets", "growth", "start")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("rows", nargs="*")
    parser.add_argument("--beside")
    parser.add_argument("--effort", type=float, default=1.0)
    parser.add_argument("--rounds", type=int)
    options = parser.parse_args()
    began = time.monotonic()

    def say(line: str) -> None:
        print(f"{time.monotonic() - began:6.1f} s  {line}", flush=True)

    for name in options.rows or ROWS:
        row: Row = importlib.import_module(f"benchmarks.rows.{name}").ROW
        found = measure(row, say, options.effort)
        show(found)


def show(found: Found) -> None:
    for comparison in found.row.comparisons:
        ratio = found.ratio(comparison)
        print(comparison.metric, comparison.beside, ratio, "must", comparison.must, "aim", comparison.aim, OURS)


if __name__ == "__main__":
    main()
