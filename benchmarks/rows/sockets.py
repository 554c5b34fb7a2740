"""The memory of an idle subscriber, for 10,000 of them, above the idle service.

Afterwards all of Busway's subscribers reconnect at once with a cursor and read what they missed.
"""

from __future__ import annotations

import contextlib
import json
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from benchmarks import running
from benchmarks.listening import SUBSCRIBED, UPGRADED, Clients, Step, allow_many_sockets
from benchmarks.load import post
from benchmarks.row import OURS, Comparison, Once, Row, Side

SOCKETS = 10_000
WARM = 200  # sockets for a warm-up, so that one-time costs do not count
MISSED = 100  # results for each socket that reconnects
QUIET = 2.0  # seconds before memory is read
TYPES = "/v1/subscribe?types=bench.*"


@contextlib.contextmanager
def busway() -> Iterator[Once]:
    allow_many_sockets()
    with running.busway() as gateway:
        number = int(gateway.url.rpartition(":")[2])

        def once(effort: float) -> dict[str, float]:
            count = round(SOCKETS * effort)
            found = {"kib_each": kib_each(gateway.process.pid, number, count, TYPES, SUBSCRIBED)}
            return found | storm(gateway.url, number, count)

        yield once


@contextlib.contextmanager
def bare() -> Iterator[Once]:
    allow_many_sockets()
    number = running.port()
    command = [sys.executable, "-m", "benchmarks.peers.bare", str(number)]
    with running.running(command, f"http://127.0.0.1:{number}/") as process:

        def once(effort: float) -> dict[str, float]:
            count = round(SOCKETS * effort)
            return {"kib_each": kib_each(process.pid, number, count, "/v1/subscribe", UPGRADED)}

        yield once


def kib_each(pid: int, number: int, count: int, path: str, steps: tuple[Step, ...]) -> float:
    """Connect a number of subscribers; return the KiB of each above the idle service."""
    Clients(number, WARM, path, steps=steps).close()
    time.sleep(QUIET)
    before = private_kib(pid)
    with Clients(number, count, path, steps=steps) as clients:
        clients.drain(QUIET)
        return (private_kib(pid) - before) / count


def private_kib(pid: int) -> int:
    """Return the private memory of a process in KiB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_"))


def storm(url: str, number: int, count: int) -> dict[str, float]:
    """Connect all at once with a cursor; return the seconds until all caught up, and the duplicates."""
    cursor = results(url, "latest")["cursor"]
    post(url + "/v1/events", json.dumps([{"type": "bench.noop"}] * MISSED))
    while len(results(url, cursor)["items"]) < MISSED:
        time.sleep(0.1)
    time.sleep(QUIET)
    began = time.monotonic()
    with Clients(number, count, f"/v1/subscribe?after={cursor}", steps=SUBSCRIBED) as clients:
        clients.read(lambda: clients.items >= count * MISSED)
        took = clients.last - began
        clients.drain(QUIET)
        return {"storm_s": took, "storm_repeats": clients.items - count * MISSED}


def results(url: str, after: str) -> dict[str, object]:
    """Return the page of results after a cursor."""
    with urllib.request.urlopen(f"{url}/v1/results?limit=1000&after={after}") as answer:
        return json.load(answer)  # type: ignore[no-any-return]


ROW = Row(
    name="sockets",
    title=f"memory of an idle subscriber, {SOCKETS:,} of them",
    sides=(
        Side(
            OURS,
            f"a subscription each, above the idle service; storm_…: all reconnect, {MISSED} results behind",
            busway,
            alone=True,
        ),
        Side(
            "bare",
            "an ASGI loop that accepts, on the same uvicorn settings with uvicorn's own protocols: uvloop, "
            "httptools, websockets-sansio, no compression, the same pings and backlog",
            bare,
            alone=True,
        ),
    ),
    comparisons=(Comparison("kib_each", ("bare",), must=1.5, aim=1.2, at_most=True),),
    rounds=1,
)
