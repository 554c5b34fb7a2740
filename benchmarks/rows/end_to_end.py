"""Events a second from the first request to the last result: stored, run, results delivered."""

from __future__ import annotations

import contextlib
import http.client
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks import running
from benchmarks.commits import Watch
from benchmarks.load import EVENT, Counter
from benchmarks.redis import SETTINGS as REDIS
from benchmarks.redis import redis
from benchmarks.row import OURS, Comparison, Once, Reading, Row, Side

BATCH = 1_000  # events of one request
UNDER_WAY = 2  # requests at any time: more is not faster here
EVENTS = 40_000  # for Busway and the bare writer
TASKS = {"celery": 4_000, "taskiq": 6_000, "dramatiq": 6_000}
CPUS = os.cpu_count() or 1
WORKERS = {
    "celery": ["celery", "-A", "benchmarks.peers.celery_app", "worker", f"--concurrency={CPUS}"],
    "taskiq": ["taskiq", "worker", "benchmarks.peers.taskiq_app:broker", f"--workers={CPUS}"],
    "dramatiq": ["dramatiq", "benchmarks.peers.dramatiq_app", f"--processes={CPUS}", "--threads=8"],
}
_BODY = "[" + ",".join([EVENT] * BATCH) + "]"


@contextlib.contextmanager
def busway() -> Iterator[Once]:
    with running.busway() as gateway, contextlib.closing(Counter(gateway.url)) as counter:
        through(gateway.url, counter, 2 * BATCH)
        yield lambda effort: through(gateway.url, counter, batches(effort) * BATCH)


@contextlib.contextmanager
def bare_sqlite() -> Iterator[Once]:
    with running.folder() as place:
        record(place)
        command = [sys.executable, "-m", "benchmarks.peers.bare_sqlite", str(place)]
        with running.program(command) as program:
            yield lambda _: program.ask()


def record(place: Path) -> None:
    """Save Busway's database of one round in a folder, and in `commits.json` what each commit wrote."""
    with running.busway(place=place) as gateway, contextlib.closing(Counter(gateway.url)) as counter:
        with Watch(gateway.url, place / "bench.db") as watch:
            through(gateway.url, counter, EVENTS)
        watch.save(place / "commits.json")


def through(url: str, counter: Counter, events: int) -> Reading:
    """Publish a number of events, wait for their results, and return the events per second.

    Raises:
        RuntimeError: a result is missing or duplicate.
    """
    before = counter.count
    begun = time.monotonic()
    publish(url, events // BATCH)
    counter.settle(before + events)
    if counter.count - before != events:
        raise RuntimeError(f"{events} events brought {counter.count - before} results")
    return {"events_per_s": events / (counter.last - begun)}


def publish(url: str, requests: int) -> None:
    """Publish batches, `UNDER_WAY` at a time; each must be accepted completely."""
    with ThreadPoolExecutor(UNDER_WAY) as pool:
        shares = [len(range(first, requests, UNDER_WAY)) for first in range(UNDER_WAY)]
        for _ in pool.map(lambda share: publish_some(url, share), shares):
            pass


def publish_some(url: str, requests: int) -> None:
    """Publish batches one after another over one connection."""
    address = url.removeprefix("http://")
    with contextlib.closing(http.client.HTTPConnection(address, timeout=60)) as connection:
        for _ in range(requests):
            connection.request("POST", "/v1/events", _BODY, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            text = answer.read()
            if answer.status != 202 or text.count(b'"duplicate":false') != BATCH:
                raise RuntimeError(f"a batch was answered with {answer.status}: {text[:200]!r}")


def batches(effort: float) -> int:
    """Return how many batches a round publishes."""
    return max(UNDER_WAY, round(EVENTS * effort / BATCH))


@contextlib.contextmanager
def queue(name: str) -> Iterator[Once]:
    """A task queue on its own Redis: its workers, and the program that enqueues and fetches."""
    python = running.python("peers", name)
    with redis() as url:
        env = {"REDIS_URL": url}
        with (
            running.running([python, "-m", *WORKERS[name]], env=env),
            running.program([python, "-m", f"benchmarks.peers.{name}_app"], env) as program,
        ):
            yield lambda effort: program.ask(tasks=max(500, round(TASKS[name] * effort)))


def peer(name: str, settings: str) -> Side:
    """Return a task queue's side. It runs only during its rounds, because idle workers poll Redis."""
    return Side(name, f"{settings}; broker and results in {REDIS}", lambda: queue(name), alone=True)


ROW = Row(
    name="end_to_end",
    title=f"events a second in batches of {BATCH:,}, until the last result is delivered",
    sides=(
        Side(
            OURS,
            f"synced, process pool, no-op handler, {UNDER_WAY} requests under way, one subscriber",
            busway,
        ),
        Side(
            "bare_sqlite",
            "sqlite3 of the standard library writes what Busway wrote in such a round and nothing else: "
            "the same rows, indexes, statements and commits, synced, the same cache and checkpoints",
            bare_sqlite,
        ),
        peer("celery", f"prefork, {CPUS} processes, prefetch multiplier 128, one producer, results by MGET"),
        peer("taskiq", f"ListQueueBroker, {CPUS} workers, uvloop, async no-ops, gathers of 100"),
        peer("dramatiq", f"{CPUS} processes of 8 threads, a group of no-ops"),
    ),
    comparisons=(
        Comparison("events_per_s", ("bare_sqlite",), must=0.3, aim=0.5),
        Comparison("events_per_s", ("celery", "taskiq", "dramatiq"), must=10, aim=20),
    ),
)
