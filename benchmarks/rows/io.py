"""Handlers that wait in 32 threads, beside the theoretical maximum of 32 threads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from benchmarks import running
from benchmarks.results import run_batch
from benchmarks.row import OURS, Comparison, Once, Row, Side

THREADS, WAIT = 32, 0.05
IDEAL = THREADS / WAIT  # runs a second
EVENTS = 3_200
HANDLERS = f"""
import time
from busway import handler

@handler("bench.wait")
def wait(event):
    time.sleep({WAIT})
"""


@contextlib.contextmanager
def busway() -> Iterator[Once]:
    with running.busway("--pool=thread", f"--threads={THREADS}", handlers=HANDLERS) as gateway:
        run_batch(gateway.url, "bench.wait", THREADS)

        def once(effort: float) -> dict[str, float]:
            events = round(EVENTS * effort)
            batch = run_batch(gateway.url, "bench.wait", events)
            return {"runs_per_s": events / (batch.ended - batch.accepted) * 1e9}

        yield once


ROW = Row(
    name="io",
    title=f"handlers a second that sleep {WAIT * 1000:.0f} ms on {THREADS} threads",
    sides=(
        Side(
            OURS,
            f"thread pool, --threads {THREADS}, {EVENTS:,} events in one batch; "
            "from the 202 to the last result delivered",
            busway,
        ),
    ),
    comparisons=(Comparison("runs_per_s", (), must=0.9, aim=0.97, theirs=IDEAL),),
)
