"""Start times: of the service in a new folder, and of a worker that replaces a dead one."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from websockets.sync.client import ClientConnection, connect

from benchmarks import running
from benchmarks.load import post
from benchmarks.row import OURS, Comparison, Missing, Once, Row, Side

KILLS = 5
PAUSE = 0.2  # seconds between a successor's first attempt and its own death
EVERY = 0.01  # seconds between two readiness checks
CODE = """
import os, time
from busway import handler

@handler("bench.who")
def who(event):
    return {"now": time.time_ns(), "pid": os.getpid()}
"""


@contextlib.contextmanager
def busway() -> Iterator[Once]:
    def once(_effort: float) -> dict[str, float]:
        with running.folder() as place:
            found = {"ready_s": ready(place), "ready_again_s": ready(place)}
            with running.busway("--workers=1", handlers=CODE, place=place) as gateway:
                found["successor_ms"] = statistics.median(successors(gateway.url, KILLS))
        return found

    yield once


def ready(place: Path) -> float:
    """Return the seconds from starting the command until `/readyz` first answered 200."""
    (place / "handlers").mkdir(exist_ok=True)
    (place / "handlers" / "bench.py").write_text(CODE)
    number = running.port()
    command = [
        sys.executable,
        "-m",
        "busway",
        "serve",
        f"--port={number}",
        f"--handlers={place / 'handlers'}",
    ]
    command += [f"--database-url=sqlite:///{place / 'bench.db'}"]
    began = time.monotonic()
    with running.running(command):
        while not is_ready(f"http://127.0.0.1:{number}/readyz"):
            if time.monotonic() - began > running.PATIENCE:
                raise Missing("it was not ready in time")
            time.sleep(EVERY)
        return time.monotonic() - began


def is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status) == 200
    except OSError:  # an error response is a response, too
        return False


def successors(url: str, kills: int) -> list[float]:
    """Kill the only worker repeatedly; return the milliseconds until its successor was inside a handler.

    An event is published directly after the kill. Its only attempt can begin only in the successor, and
    reports when it began, so nothing is polled.
    """
    address = url.replace("http", "ws", 1) + "/v1/subscribe?after=latest"
    with connect(address, compression=None) as subscriber:
        subscriber.recv()  # subscribed
        pid, _ = who(url, subscriber)
        taken = []
        for _ in range(kills):
            time.sleep(PAUSE)
            killed = time.time_ns()
            os.kill(pid, signal.SIGKILL)
            successor, began = who(url, subscriber)
            if successor == pid:
                raise Missing("a killed worker continued")
            taken.append((began - killed) / 1e6)
            pid = successor
        return taken


def who(url: str, subscriber: ClientConnection) -> tuple[int, int]:
    """Publish an event; return the process id of its attempt, and the nanosecond in which it began."""
    post(url + "/v1/events", '{"type":"bench.who"}')
    while True:
        for item in json.loads(subscriber.recv(timeout=30)).get("items", []):
            if item["kind"] != "succeeded":
                raise Missing(f"an attempt failed: {item['error']}")
            return item["data"]["pid"], item["data"]["now"]


ROW = Row(
    name="start",
    title="from serve to ready; from a worker's death to its successor",
    sides=(
        Side(
            OURS,
            "serve in a fresh folder, defaults; ready_again_s: with an existing database; kill -9 of the "
            f"worker of --workers 1 until its successor is inside a handler, the median of {KILLS}",
            busway,
        ),
    ),
    comparisons=(
        Comparison("ready_s", (), must=1.5, aim=0.7, at_most=True, theirs=1.0),
        Comparison("successor_ms", (), must=100, aim=20, at_most=True, theirs=1.0),
    ),
    rounds=5,
)
