"""Latency from the scheduled moment of an event to its result on the WebSocket."""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Iterator

from benchmarks import running
from benchmarks.load import CONNECTIONS, wrk
from benchmarks.peers import crossbar_node
from benchmarks.row import OURS, Comparison, Once, Reading, Row, Side
from benchmarks.running import Program

IDLE = 50.0  # events a second
IDLE_SECONDS = 8.0
PROBE_SECONDS = 3.0  # for wrk to find the maximum
HALF_SECONDS = 5.0


@contextlib.contextmanager
def busway() -> Iterator[Once]:
    with running.busway() as gateway, running.program(openloop()) as program:
        port, rounds = int(gateway.url.rpartition(":")[2]), itertools.count(1)

        def once(effort: float) -> Reading:
            seed = next(rounds)
            reading = idle(program, "busway", port, effort, seed)
            most = wrk(gateway.url + "/v1/events", PROBE_SECONDS * effort)["requests_per_s"]
            found = program.ask(
                kind="busway",
                port=port,
                per_s=most / 2,
                seconds=HALF_SECONDS * effort,
                connections=CONNECTIONS,
                seed=seed,
            )
            return reading | {"half_rate_per_s": most / 2} | _named("half", found)

        yield once


@contextlib.contextmanager
def crossbar() -> Iterator[Once]:
    with crossbar_node.node() as port, running.program(openloop()) as program:
        rounds = itertools.count(1)
        yield lambda effort: idle(program, "crossbar", port, effort, next(rounds))


@contextlib.contextmanager
def bare() -> Iterator[Once]:
    with running.program([sys.executable, "-m", "benchmarks.peers.bare_hops"]) as program:
        rounds, seconds = itertools.count(1), IDLE_SECONDS
        yield lambda effort: program.ask(per_s=IDLE, seconds=seconds * effort, seed=next(rounds))


def idle(program: Program, kind: str, port: int, effort: float, seed: int) -> Reading:
    """Measure with few events on one connection."""
    seconds = IDLE_SECONDS * effort
    found = program.ask(kind=kind, port=port, per_s=IDLE, seconds=seconds, connections=1, seed=seed)
    return _named("idle", found)


def _named(phase: str, found: Reading) -> Reading:
    return {f"{phase}_{name}": value for name, value in found.items()}


def openloop() -> list[str]:
    """Return the command of the program that makes the load."""
    return [sys.executable, "-m", "benchmarks.openloop"]


SCHEDULE = "a Poisson schedule, seeded by the number of the round"

ROW = Row(
    name="latency",
    title=f"publish to result on the WebSocket, on a schedule: {IDLE:g} events/s, and half the maximum",
    sides=(
        Side(
            OURS,
            f"synced, process pool; {SCHEDULE}: {IDLE:g} events/s on one connection, then half of what wrk "
            f"found in the same round on {CONNECTIONS}",
            busway,
        ),
        Side(
            "crossbar",
            "Crossbar.io, its documented production settings: HTTP publisher to a WAMP subscriber, "
            f"stores nothing and runs nothing; {IDLE:g} events/s on one connection, {SCHEDULE}",
            crossbar,
        ),
        Side(
            "bare",
            "the same hops between processes and the same two syncs, in programs that do nothing else: "
            f"the lower bound on this machine; {IDLE:g} events/s, {SCHEDULE}",
            bare,
        ),
    ),
    comparisons=(
        Comparison("idle_p50_ms", ("crossbar",), must=1, aim=0.7, at_most=True),
        Comparison("half_p99_ms", (), must=10, aim=5, at_most=True, theirs="idle_p50_ms"),
    ),
)
