"""Deliveries a second to a receiver on this machine, beside `httpx.AsyncClient` in a bare loop."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterator

from benchmarks import running
from benchmarks.load import post
from benchmarks.results import run_batch
from benchmarks.row import OURS, Comparison, Once, Row, Side

EVENTS, PEER_EVENTS = 8_000, 3_000
AT_ONCE = 4  # requests of httpx under way: with more it is slower


@contextlib.contextmanager
def sink() -> Iterator[str]:
    number = running.port()
    url = f"http://127.0.0.1:{number}/hook"
    command = [sys.executable, "-m", "benchmarks.peers.webhook_sink", str(number)]
    with running.running(command):
        yield url


@contextlib.contextmanager
def busway() -> Iterator[Once]:
    with sink() as url, running.busway("--allow-target=127.0.0.1") as gateway:
        post(
            gateway.url + "/v1/handlers",
            json.dumps({"name": "hook", "target": url, "events": ["hook.bench"]}),
        )
        run_batch(gateway.url, "hook.bench", 100)

        def once(effort: float) -> dict[str, float]:
            events = round(EVENTS * effort)
            batch = run_batch(gateway.url, "hook.bench", events)
            return {"deliveries_per_s": events / (batch.ended - batch.accepted) * 1e9}

        yield once


@contextlib.contextmanager
def httpx_loop() -> Iterator[Once]:
    with sink() as url, running.program([sys.executable, "-m", "benchmarks.peers.httpx_loop"]) as program:
        yield lambda effort: program.ask(url=url, deliveries=round(PEER_EVENTS * effort), at_once=AT_ONCE)


ROW = Row(
    name="webhooks",
    title="deliveries a second to a receiver on this machine",
    sides=(
        Side(
            OURS,
            f"synced, signed, one handler, {EVENTS:,} events in one batch; from the 202 to the last result "
            "delivered",
            busway,
        ),
        Side(
            "httpx",
            f"AsyncClient in a bare loop (uvloop), {AT_ONCE} requests under way; nothing stored or signed",
            httpx_loop,
        ),
    ),
    comparisons=(
        Comparison("deliveries_per_s", ("httpx",), must=0.6, aim=1),
        Comparison("deliveries_per_s", (), must=1, aim=2, theirs=1_500),
    ),
)
