"""A good client beside the attacks of the tests: how long its events take, alone and beside them."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import subprocess
import sys
from collections.abc import Iterator

from benchmarks import running
from benchmarks.row import OURS, Comparison, Once, Reading, Row, Side
from benchmarks.rows.latency import IDLE, IDLE_SECONDS, idle, openloop
from tests.attacks import ATTACKS, FLOOD

OPTIONS = ("--head-timeout=2", "--body-timeout=2", "--stall-timeout=1")
"""With the defaults most attacks would last longer than a round."""


@contextlib.contextmanager
def alone() -> Iterator[Once]:
    """Measure the good client alone."""
    with gateway() as (measure, _):
        yield measure


@contextlib.contextmanager
def attacked(*how: str) -> Iterator[Once]:
    """Measure it while a process attacks the same gateway. `how`: arguments of that process."""
    with gateway() as (measure, url):

        def once(effort: float) -> Reading:
            # Attackers have machines of their own: what theirs computes must not count.
            command = ["nice", "-n", "19", sys.executable, "-m", "tests.attacks", url, *how]
            with subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            ) as attacks:
                assert attacks.stdout is not None
                least = json.loads(attacks.stdout.readline())["attacks"]
                reading = measure(effort)
                told = json.loads(attacks.communicate()[0])
            if told["wrong"] or (effort >= 1 and told["made"] < least):
                raise RuntimeError(f"attacks got other answers, or were too few: {told}")
            return {**reading, "attacks": float(told["made"])}

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


SLOT = IDLE_SECONDS / len(ATTACKS)

ROW = Row(
    name="hostile",
    title=f"publish to result of a good client, {IDLE:g} events/s on one connection, beside attacks",
    sides=(
        Side(OURS, f"alone; synced, process pool; {', '.join(OPTIONS)}", alone),
        Side(
            "busway_attacked",
            f"beside {len(ATTACKS)} attacks one after another, each again and again for {SLOT:.2f} s, "
            "of one process, with nice 19",
            functools.partial(attacked, str(SLOT)),
        ),
        Side("busway_all_at_once", "beside all of them at the same moment, again and again", attacked),
    ),
    comparisons=(
        Comparison("idle_p99_ms", (OURS,), must=3, aim=2, at_most=True, side="busway_attacked"),
        Comparison("idle_p99_ms", (OURS,), must=3, aim=2, at_most=True, side="busway_all_at_once"),
    ),
)
