"""No-op tasks a second through the supervisor alone, beside other pools.

Each pool runs in a program of its own, is called from an event loop (uvloop; circuits: its own) and takes
turns with the others. For docs/pools.md, Busway and the standard library also run tasks that compute for 5
ms, that wait for 10 ms, and that await for 10 ms.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager

from benchmarks import running
from benchmarks.row import OURS, Comparison, Once, Row, Side

CPUS = os.cpu_count() or 1


def side(
    module: str, argument: str, environment: str | None = None
) -> Callable[[], AbstractContextManager[Once]]:
    """Return a side that starts `benchmarks.peers.MODULE ARGUMENT` and calls it once a round."""

    @contextlib.contextmanager
    def opened() -> Iterator[Once]:
        interpreter = running.python(environment, argument) if environment else sys.executable
        with running.program([interpreter, "-m", f"benchmarks.peers.{module}", argument]) as asked:
            yield lambda effort: asked.ask(effort=effort)

    return opened


@contextlib.contextmanager
def circuits() -> Iterator[Once]:
    interpreter = running.python("peers", "circuits")
    command = [interpreter, "-m", "benchmarks.peers.circuits_worker"]
    with (
        running.program([*command, "process"]) as processes,
        running.program([*command, "thread"]) as threads,
    ):

        def once(effort: float) -> dict[str, float]:
            in_threads = threads.ask(effort=effort / 2)
            named = {f"thread_{metric}": value for metric, value in in_threads.items()}
            return processes.ask(effort=effort) | named

        yield once


ROW = Row(
    name="pools",
    title="no-op tasks a second through the pools alone",
    sides=(
        Side(
            OURS,
            f"the supervisor with its process pool, {CPUS} processes; 256 under way",
            side("supervisor", "process"),
        ),
        Side(
            "busway_thread",
            "the supervisor with its thread pool, 32 threads; 256 under way",
            side("supervisor", "thread"),
        ),
        Side(
            "ProcessPoolExecutor",
            f"concurrent.futures, {CPUS} processes, by loop.run_in_executor; 64 under way",
            side("executors", "ProcessPoolExecutor"),
        ),
        Side(
            "run_in_executor",
            "ThreadPoolExecutor(32) in the caller's process; 256 under way",
            side("executors", "run_in_executor"),
        ),
        Side(
            "pebble",
            f"ProcessPool, {CPUS} processes, by loop.run_in_executor; 256 under way",
            side("executors", "pebble", "peers"),
        ),
        Side(
            "loky",
            f"get_reusable_executor, {CPUS} processes, by loop.run_in_executor; 16 under way",
            side("executors", "loky", "peers"),
        ),
        Side(
            "circuits",
            f"Worker(process=True), {CPUS} processes, by call(task(…)) from its own loop; 256 under way; "
            "thread_…: Worker(), 32 threads, 128 under way",
            circuits,
        ),
    ),
    comparisons=(
        Comparison("noop_per_s", ("ProcessPoolExecutor",), must=10, aim=20),
        Comparison("noop_per_s", ("run_in_executor",), must=2, aim=3, side="busway_thread"),
    ),
)
