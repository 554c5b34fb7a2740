"""Three nodes beside one node, all on PostgreSQL: events a second in batches until the last result."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

from benchmarks import running
from benchmarks.load import Counter
from benchmarks.redis import SETTINGS as REDIS
from benchmarks.row import OURS, Comparison, Once, Reading, Row, Side
from benchmarks.rows.end_to_end import BATCH, UNDER_WAY, batches, queue, through
from tests.servers.postgres import PostgresServer
from tests.servers.postgres import running as server

CPUS = os.cpu_count() or 1
JOBS = 2_000  # for procrastinate


@contextlib.contextmanager
def database() -> Iterator[PostgresServer]:
    """A server with the database `bench`."""
    with server(shared_buffers="256MB") as found:
        found.create("bench")
        yield found


@contextlib.contextmanager
def nodes(number: int) -> Iterator[Once]:
    """Nodes on one database. Batches go to the first one, which leads, and results come from the last one."""
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(database()).url("bench")
        urls = [stack.enter_context(running.busway(f"--database-url={url}")).url for _ in range(number)]
        counter = stack.enter_context(contextlib.closing(Counter(urls[-1])))
        through(urls[0], counter, UNDER_WAY * BATCH)
        yield lambda effort: measured(urls[0], counter, effort)


def measured(url: str, counter: Counter, effort: float) -> Reading:
    """Return the figure of one round."""
    return {"end_to_end_per_s": through(url, counter, batches(effort) * BATCH)["events_per_s"]}


@contextlib.contextmanager
def bare() -> Iterator[Once]:
    """Let Busway write a round, then write its rows again with psycopg alone."""
    with database() as found:
        url = found.url("bench")
        with (
            running.busway(f"--database-url={url}") as gateway,
            contextlib.closing(Counter(gateway.url)) as counter,
        ):
            through(gateway.url, counter, batches(1.0) * BATCH)
        with running.program([sys.executable, "-m", "benchmarks.peers.bare_postgres", url]) as program:
            yield lambda _: program.ask()


@contextlib.contextmanager
def procrastinate() -> Iterator[Once]:
    python = running.python("peers", "procrastinate")
    with database() as found, contextlib.ExitStack() as stack:
        env = {"DATABASE_URL": found.url("bench"), "PYTHONPATH": str(running.ROOT)}
        command = [python, "-m", "procrastinate", "--app=benchmarks.peers.procrastinate_app.app"]
        with running.running([*command, "schema", "--apply"], env=env) as made:
            made.wait(running.PATIENCE)
        for _ in range(CPUS):
            stack.enter_context(running.running([*command, "worker", "--concurrency=8"], env=env))
        told = [python, "-m", "benchmarks.peers.procrastinate_app"]
        program = stack.enter_context(running.program(told, env))
        yield lambda effort: program.ask(tasks=max(500, round(JOBS * effort)))


@contextlib.contextmanager
def celery() -> Iterator[Once]:
    with queue("celery") as once:
        yield lambda effort: {"end_to_end_per_s": once(effort)["events_per_s"]}


ROW = Row(
    name="cluster",
    title="three nodes on PostgreSQL: events a second in batches, until the last result is delivered",
    sides=(
        Side(
            OURS,
            f"synced, process pool, no-op handler; {UNDER_WAY} requests under way at the node that leads, "
            "one subscriber at another",
            lambda: nodes(3),
            alone=True,
        ),
        Side("busway_one", "the same with one node", lambda: nodes(1), alone=True),
        Side(
            "bare_postgres",
            "psycopg writes what one node wrote in such a round, but for assignments: the same rows, "
            "indexes, statements and commits, synced, each commit in one pipeline",
            bare,
            alone=True,
        ),
        Side(
            "procrastinate",
            f"on PostgreSQL, {CPUS} workers of 8 tasks, async no-ops, jobs deferred in batches of 1,000; it "
            "stores no results",
            procrastinate,
            alone=True,
        ),
        Side("celery", f"prefork, {CPUS} processes, results by MGET; {REDIS}", celery, alone=True),
    ),
    comparisons=(
        Comparison("end_to_end_per_s", ("busway_one",), must=0.7, aim=0.8),
        Comparison("end_to_end_per_s", ("procrastinate", "celery"), must=3, aim=6),
        Comparison("end_to_end_per_s", ("bare_postgres",), must=0.3, aim=0.5, side="busway_one"),
    ),
)
