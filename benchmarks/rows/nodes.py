"""PostgreSQL beside SQLite: single events a second, and events in batches until the last result."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from benchmarks import running
from benchmarks.load import Counter, stored, wrk
from benchmarks.row import OURS, Comparison, Once, Reading, Row, Side
from benchmarks.rows.end_to_end import BATCH, EVENTS, UNDER_WAY, through
from tests.servers.postgres import running as server

SECONDS = 8.0


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


ROW = Row(
    name="nodes",
    title="PostgreSQL beside SQLite, one gateway: single events, and batches until the last result",
    sides=(
        Side(OURS, "PostgreSQL 18 on this machine, synced, over TCP; process pool, no-op handler", postgres),
        Side("sqlite", "the same on SQLite", gateway),
    ),
    comparisons=(
        Comparison("publish_per_s", ("sqlite",), must=0.3, aim=0.5),
        Comparison("end_to_end_per_s", ("sqlite",), must=0.3, aim=0.5),
    ),
)
