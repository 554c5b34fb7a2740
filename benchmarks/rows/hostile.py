"""A good client beside the attacks of the tests: how long its events take, alone and beside all of them."""

from __future__ import annotations

import contextlib
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator

from benchmarks import running
from benchmarks.row import OURS, Comparison, Once, Reading, Row, Side
from benchmarks.rows.latency import IDLE, idle, openloop
from tests.attacks import ATTACKS, FLOOD

OPTIONS = ("--head-timeout=2", "--body-timeout=2", "--stall-timeout=1")
"""With the defaults most attacks would last longer than a round."""


@contextlib.contextmanager
def alone() -> Iterator[Once]:
    """Measure the good client alone."""
    with gateway() as (measure, _):
        yield measure


@contextlib.contextmanager
def attacked() -> Iterator[Once]:
    """Measure it while a process attacks the same gateway."""
    with gateway() as (measure, url):

        def once(effort: float) -> Reading:
            # Attackers have machines of their own: what theirs computes must not count.
            command = ["nice", "-n", "19", sys.executable, "-m", "tests.attacks", url]
            with subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            ) as attacks:
                reading = measure(effort)
                told = json.loads(attacks.communicate()[0])
            if told["wrong"]:
                raise RuntimeError(f"attacks got other answers: {told['wrong']}")
            return {**reading, "attacks": float(told["rounds"] * len(ATTACKS))}

        yield once


@contextlib.contextmanager
def gateway() -> Iterator[tuple[Once, str]]:
    """Yield what measures a gateway, and its URL."""
    handlers = running.NOOP + FLOOD
    with (
        running.busway(*OPTIONS, handlers=handlers) as busway,
        running.program(openloop()) as program,
    ):
        port, rounds = int(busway.url.rpartition(":")[2]), itertools.count(1)
        yield lambda effort: idle(program, "busway", port, effort, next(rounds)), busway.url


ROW = Row(
    name="hostile",
    title=f"publish to result of a good client, {IDLE:g} events/s on one connection, beside attacks",
    sides=(
        Side(OURS, f"alone; synced, process pool; {', '.join(OPTIONS)}", alone),
        Side(
            "busway_attacked",
            f"the same beside {len(ATTACKS)} attacks at a time, of one process, with nice 19",
            attacked,
        ),
    ),
    comparisons=(Comparison("idle_p99_ms", (OURS,), must=3, aim=2, at_most=True, side="busway_attacked"),),
)
