"""Single events a second: stored and synced, run, their results stored and delivered."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

from benchmarks import running
from benchmarks.load import CONNECTIONS, Counter, stored, wrk
from benchmarks.row import OURS, Comparison, Missing, Once, Reading, Row, Side
from benchmarks.running import PEERS

SUSTAINED = 30.0  # seconds
BESIDE = 8.0  # seconds that a peer gets
UVICORN = ["--no-access-log", "--loop", "uvloop", "--http", "httptools", "--log-level", "warning"]


@contextlib.contextmanager
def busway() -> Iterator[Once]:
    with running.busway() as gateway:
        counter = Counter(gateway.url)
        wrk(gateway.url + "/v1/events", 2)

        def once(effort: float) -> Reading:
            reading = wrk(gateway.url + "/v1/events", SUSTAINED * effort)
            ended = time.monotonic()
            total = stored(gateway.url)
            counter.settle(total)
            reading["last_result_after_s"] = max(0.0, counter.last - ended)
            reading["undelivered"] = total - counter.count
            return reading

        yield once


@contextlib.contextmanager
def fastapi() -> Iterator[Once]:
    number = running.port()
    url = f"http://127.0.0.1:{number}"
    command = [sys.executable, "-m", "uvicorn", "noop:app", "--app-dir", str(PEERS), "--port", str(number)]
    with running.running([*command, *UVICORN], url + "/openapi.json"):
        wrk(url + "/v1/events", 1)
        yield lambda effort: wrk(url + "/v1/events", BESIDE * effort)


@contextlib.contextmanager
def crossbar() -> Iterator[Once]:
    raise Missing("to be written")
    yield


@contextlib.contextmanager
def naive() -> Iterator[Once]:
    raise Missing("to be written")
    yield


ROW = Row(
    name="publish",
    title=f"single events a second, {CONNECTIONS} connections",
    sides=(
        Side(OURS, "synced, process pool, a subscriber; sustained for 30 s", busway),
        Side("fastapi", "an endpoint with a pydantic body that stores nothing; uvloop, httptools", fastapi),
        Side("crossbar", "HTTP publisher to one subscriber, stores nothing", crossbar),
        Side("naive", "FastAPI, AsyncSession commit, ProcessPoolExecutor, send_json", naive),
    ),
    comparisons=(
        Comparison("requests_per_s", ("fastapi",), must=1.5, aim=2.5),
        Comparison("requests_per_s", ("crossbar",), must=3, aim=6),
        Comparison("requests_per_s", ("naive",), must=40, aim=60),
        Comparison("last_result_after_s", (), must=1, aim=0.1, at_most=True, theirs=1.0),
    ),
)
