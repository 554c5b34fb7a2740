"""circuits' Worker in its own event loop: `circuits_worker process|thread`. Requests are lines of JSON."""

from __future__ import annotations

import os
import statistics
import sys
import time
from collections.abc import Iterator
from functools import partial

from circuits import Component, Event, Worker, task

from benchmarks.peers.answering import answer
from benchmarks.peers.calling import ALONE, NOOP
from benchmarks.peers.work import noop

UNDER_WAY = {"process": 256, "thread": 128}  # the best value for each
THREADS = 32


class caller(Event):  # noqa: N801 - circuits names an event as its class
    """Start a caller of no-ops."""


class Callers(Component):
    """Callers; each gives the worker its next no-op when the last one is done."""

    end, running = 0.0, 0
    taken: list[float]

    def caller(self) -> Iterator[object]:
        """Call until the time is up."""
        while (begun := time.perf_counter()) < self.end:
            yield self.call(task(noop, None), "worker")
            self.taken.append(time.perf_counter() - begun)
        self.running -= 1

    def calls(self, seconds: float, under_way: int) -> float:
        """Return the calls a second; `taken` has how long each was."""
        begun = time.perf_counter()
        self.taken, self.running, self.end = [], under_way, begun + seconds
        for _ in range(under_way):
            self.fire(caller())
        while self.running:
            self.tick()
        return len(self.taken) / (time.perf_counter() - begun)

    def once(self, under_way: int, effort: float) -> dict[str, float]:
        """Measure no-ops with many under way and one at a time."""
        self.calls(NOOP / 4 * effort, under_way)  # warm
        found = {"noop_per_s": self.calls(NOOP * effort, under_way)}
        self.calls(ALONE * effort, 1)
        return found | {"p50_us": statistics.median(self.taken) * 1e6}


def main(pool: str) -> None:
    processes = pool == "process"
    callers = Callers()
    worker = Worker(process=processes, workers=(os.cpu_count() or 1) if processes else THREADS).register(
        callers
    )
    callers.flush()
    answer(partial(callers.once, UNDER_WAY[pool]))
    worker.pool.close()
    worker.pool.join()


if __name__ == "__main__":
    main(sys.argv[1])
