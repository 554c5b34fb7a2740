"""Handlers that compute, run by Busway, beside the same function in a bare loop on one core."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks import running
from benchmarks.peers import computing
from benchmarks.results import run_batch
from benchmarks.row import OURS, Comparison, Once, Row, Side

CALLS = 1_000
HANDLERS = (
    Path(computing.__file__).read_text() + "\nfrom busway import handler\nhandler('bench.compute')(compute)\n"
)


@contextlib.contextmanager
def busway() -> Iterator[Once]:
    with running.busway("--workers=2", handlers=HANDLERS) as gateway:
        run_batch(gateway.url, "bench.compute", 20)

        def once(effort: float) -> dict[str, float]:
            calls = round(CALLS * effort)
            batch = run_batch(gateway.url, "bench.compute", calls)
            return {"calls_per_s": calls / (batch.ended - min(batch.values)) * 1e9}

        yield once


@contextlib.contextmanager
def loop() -> Iterator[Once]:
    with running.program([sys.executable, "-m", "benchmarks.peers.bare_loop"]) as asked:
        yield lambda effort: asked.ask(calls=round(CALLS / 2 * effort))


ROW = Row(
    name="cpu",
    title="CPU-bound handlers a second, two workers on two cores",
    sides=(
        Side(
            OURS,
            f"process pool, --workers 2, {CALLS:,} events in one batch; "
            "from the first start to the last result delivered",
            busway,
        ),
        Side("loop", "the same function in a bare loop, one process, one core", loop),
    ),
    comparisons=(Comparison("calls_per_s", ("loop",), must=1.6, aim=1.9),),
)
