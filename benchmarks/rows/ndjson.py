"""A million events in one NDJSON upload, beside the same in arrays of 1,000, and what memory that takes.

The database has a million events before. The page cache of SQLite in the committer is full then, and
does not count as memory that the upload takes.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

from benchmarks import running
from benchmarks.row import OURS, Comparison, Missing, Once, Reading, Row, Side
from benchmarks.rows.blocking import Probe
from benchmarks.rows.sockets import private_kib

EVENTS = 1_000_000
BATCH = 1_000
QUIET = 2.0  # seconds before memory is read
LINE = '{"type":"bench.line","data":{"item":"book","quantity":%d}}\n'

Send = Callable[[http.client.HTTPConnection, int], None]
"""Publishes so many events."""


def upload(connection: http.client.HTTPConnection, count: int) -> None:
    """Publish events as the lines of one request."""
    parts = (lines(at, min(at + BATCH, count)) for at in range(0, count, BATCH))
    headers = {"Content-Type": "application/x-ndjson", "Producer-Id": f"bench-{time.monotonic_ns()}"}
    connection.request("POST", "/v1/events", parts, headers, encode_chunked=True)
    answer = connection.getresponse()
    found = json.loads(answer.read())
    if answer.status != 202 or found["accepted"] != count:
        raise Missing(f"not all lines were stored: {found}")


def arrays(connection: http.client.HTTPConnection, count: int) -> None:
    """Publish events in arrays, one after another."""
    for at in range(0, count, BATCH):
        body = b"[%b]" % lines(at, at + BATCH).rstrip(b"\n").replace(b"\n", b",")
        connection.request("POST", "/v1/events", body, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        answer.read()
        if answer.status != 202:
            raise Missing(f"an array got {answer.status}")


def lines(start: int, stop: int) -> bytes:
    return "".join([LINE % number for number in range(start, stop)]).encode()


@contextlib.contextmanager
def gateway(send: Send) -> Iterator[Once]:
    with running.busway(handlers="") as started:
        pid, parts = started.process.pid, urlsplit(started.url)
        connection = http.client.HTTPConnection(parts.netloc, timeout=600)

        def once(effort: float) -> Reading:
            count = max(round(EVENTS * effort) // BATCH, 1) * BATCH
            upload(connection, count)  # until SQLite's page cache is full
            time.sleep(QUIET)
            with Peak(pid) as peak, Probe(parts.port or 80, pid) as probe:
                began = time.monotonic()
                send(connection, count)
                took = time.monotonic() - began
            return {
                "events": count,
                "events_per_s": count / took,
                "memory_mib": peak.mib,
                "longest_healthz_ms": probe.longest * 1000,
            }

        yield once


class Peak:
    """The most private memory of a process and its children, above what they had before, in MiB."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before = self._most = self._read()
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)

    @property
    def mib(self) -> float:
        return (self._most - self._before) / 1024

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ends.wait(0.1):
            self._most = max(self._most, self._read())

    def _read(self) -> int:
        children = Path(f"/proc/{self._pid}/task/{self._pid}/children").read_text().split()
        return sum(map(private_kib, [self._pid, *map(int, children)]))


ROW = Row(
    name="ndjson",
    title=f"{EVENTS:,} events in one upload, synced",
    sides=(
        Side(OURS, "NDJSON, one request with a Producer-Id", lambda: gateway(upload), alone=True),
        Side("arrays", f"JSON arrays of {BATCH:,}, one after another", lambda: gateway(arrays), alone=True),
    ),
    comparisons=(
        Comparison("events_per_s", ("arrays",), must=1.0, aim=1.5),
        Comparison("memory_mib", (), must=1, aim=0.5, at_most=True, theirs=64.0),
    ),
    rounds=1,
)
