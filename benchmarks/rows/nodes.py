"""PostgreSQL beside SQLite: single events a second, and events in batches until the last result.

Three nodes beside one node on SQLite: idle latency, over NOTIFY and over NATS. And PostgreSQL beside itself
while other sessions leave transactions open. `BUSWAY_BENCH_OPEN=600` keeps them open for 10 minutes a round.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
from collections.abc import Iterator

import psycopg

from benchmarks import running
from benchmarks.load import CONNECTIONS, Counter, stored, wrk
from benchmarks.row import OURS, Comparison, Once, Reading, Row, Side
from benchmarks.rows.end_to_end import BATCH, EVENTS, UNDER_WAY, through
from tests.servers.nats import NatsServer
from tests.servers.postgres import running as server

SECONDS = 8.0
IDLE = 10.0  # events a second
IDLE_SECONDS = 12.0
STEADY = 800.0  # events a second
STEADY_SECONDS = 10.0  # that are measured
OPEN_SECONDS = float(os.environ.get("BUSWAY_BENCH_OPEN", "40"))  # of the transactions that are left open


@contextlib.contextmanager
def postgres() -> Iterator[Once]:
    with server(shared_buffers="256MB") as database:
        database.create("bench")
        with gateway(f"--database-url={database.url('bench')}") as once:
            yield once


@contextlib.contextmanager
def gateway(*options: str) -> Iterator[Once]:
    with running.busway(*options) as busway, contextlib.closing(Counter(busway.url)) as counter:
        through(busway.url, counter, UNDER_WAY * BATCH)

        def once(effort: float) -> Reading:
            single = wrk(busway.url + "/v1/events", SECONDS * effort)
            counter.settle(stored(busway.url))
            counter.settle(stored(busway.url))  # with those that were under way when wrk ended
            batches = max(UNDER_WAY, round(EVENTS * effort / BATCH))
            whole = through(busway.url, counter, batches * BATCH)
            return {
                "publish_per_s": single["requests_per_s"],
                "publish_p50_ms": single["p50_ms"],
                "end_to_end_per_s": whole["events_per_s"],
            }

        yield once


@contextlib.contextmanager
def left_open() -> Iterator[Once]:
    """Measure a steady load, and the same while a transaction that reads and one that wrote stay open."""
    with (
        server(shared_buffers="256MB") as database,
        running.program([sys.executable, "-m", "benchmarks.openloop"]) as program,
    ):
        url = database.create("bench")
        database.execute("CREATE TABLE other (n int)", "bench")
        with running.busway(f"--database-url={url}") as busway:
            port, seeds = int(busway.url.rpartition(":")[2]), itertools.count(1)

            def load(seconds: float) -> Reading:
                return program.ask(
                    kind="busway",
                    port=port,
                    per_s=STEADY,
                    seconds=seconds,
                    connections=CONNECTIONS,
                    seed=next(seeds),
                )

            def once(effort: float) -> Reading:
                seconds = STEADY_SECONDS * effort
                load(seconds)
                without = load(seconds)
                with psycopg.connect(url) as reads, psycopg.connect(url) as writes:
                    reads.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                    reads.execute("SELECT count(*) FROM busway.runs")
                    writes.execute("INSERT INTO other VALUES (1)")
                    load(max(OPEN_SECONDS * effort - seconds, seconds))
                    beside = load(seconds)
                names = ("p50_ms", "p99_ms", "lost")
                return {f"without_{name}": without[name] for name in names} | {
                    f"open_{name}": beside[name] for name in names
                }

            yield once


@contextlib.contextmanager
def one_node() -> Iterator[Once]:
    with running.busway() as busway, openloop() as program:
        yield idle_at(busway.url, program)


@contextlib.contextmanager
def three_nodes(broker: NatsServer | None = None) -> Iterator[Once]:
    """Publish and subscribe at a gateway that does not lead. Another gateway leads, and a worker runs all."""
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(server(shared_buffers="256MB"))
        options = [f"--database-url={database.create('bench')}"]
        if broker is not None:
            stack.callback(broker.close)
            options.append(f"--broker-url={broker.start().url()}")
        for role in ("gateway", "worker"):
            stack.enter_context(running.busway(*options, f"--role={role}"))
        clients = stack.enter_context(running.busway(*options, "--role=gateway"))
        yield idle_at(clients.url, stack.enter_context(openloop()))


def openloop() -> contextlib.AbstractContextManager[running.Program]:
    return running.program([sys.executable, "-m", "benchmarks.openloop"])


def idle_at(url: str, program: running.Program) -> Once:
    """Measure with few events on one connection, on a Poisson schedule."""
    port, seeds = int(url.rpartition(":")[2]), itertools.count(1)

    def once(effort: float) -> Reading:
        seconds = IDLE_SECONDS * effort
        found = program.ask(
            kind="busway", port=port, per_s=IDLE, seconds=seconds, connections=1, seed=next(seeds)
        )
        return {f"idle_{name}": value for name, value in found.items()}

    return once


ROW = Row(
    name="nodes",
    title="PostgreSQL beside SQLite, one gateway: single events, and batches until the last result",
    sides=(
        Side(OURS, "PostgreSQL 18 on this machine, synced, over TCP; process pool, no-op handler", postgres),
        Side("sqlite", "the same on SQLite", gateway),
        Side(
            "one_node",
            f"one node on SQLite, {IDLE:g} events/s, process pool, no-op handler",
            one_node,
        ),
        Side(
            "busway_notify",
            "the same with three nodes on PostgreSQL, over NOTIFY: publisher and subscriber at a gateway "
            "that does not lead, the runs on a worker node",
            three_nodes,
        ),
        Side("busway_nats", "the same over NATS", lambda: three_nodes(NatsServer())),
        Side(
            "busway_open",
            f"PostgreSQL, {STEADY:g} events/s on {CONNECTIONS} connections: for {STEADY_SECONDS:g} s, and in "
            f"the last {STEADY_SECONDS:g} of {OPEN_SECONDS:g} s in which others leave two transactions "
            "open: one REPEATABLE READ that has read, and one that has written a row",
            left_open,
            alone=True,
        ),
    ),
    comparisons=(
        Comparison("publish_per_s", ("sqlite",), must=0.3, aim=0.5),
        Comparison("end_to_end_per_s", ("sqlite",), must=0.3, aim=0.5),
        Comparison("idle_p50_ms", ("one_node",), must=4, aim=2.5, at_most=True, side="busway_notify"),
        Comparison("idle_p50_ms", ("one_node",), must=3, aim=2, at_most=True, side="busway_nats"),
        Comparison(
            "open_p99_ms", (), must=1.5, aim=1.1, at_most=True, theirs="without_p99_ms", side="busway_open"
        ),
    ),
)
