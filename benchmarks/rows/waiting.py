"""The memory of requests that wait for the results of their event, above the idle gateway."""

from __future__ import annotations

import contextlib
import select
import socket
import time
import urllib.request
from collections.abc import Iterator

from benchmarks import running
from benchmarks.listening import allow_many_sockets
from benchmarks.load import post
from benchmarks.row import OURS, Comparison, Missing, Once, Row, Side
from benchmarks.rows.sockets import QUIET, private_kib

REQUESTS = 1_000
WARM = 100  # requests before, so that one-time costs do not count
PATIENCE = 60.0  # seconds
SECONDS = 60  # that each request prefers to wait: longer than a round takes
EVENT = '{"type":"bench.held","data":{"item":"book","quantity":2}}'


@contextlib.contextmanager
def busway() -> Iterator[Once]:
    allow_many_sockets()
    with running.busway() as gateway:
        number = int(gateway.url.rpartition(":")[2])
        post(gateway.url + "/v1/handlers/noop/pause", "")  # so that no result comes

        def once(effort: float) -> dict[str, float]:
            count = round(REQUESTS * effort)
            with waiting(gateway.url, number, WARM):
                pass
            time.sleep(QUIET)
            before = private_kib(gateway.process.pid)
            with waiting(gateway.url, number, count):
                time.sleep(QUIET)
                mib = (private_kib(gateway.process.pid) - before) / 1024
            time.sleep(QUIET)
            left = (private_kib(gateway.process.pid) - before) / 1024
            return {"requests": count, "memory_mib": mib, "left_mib": left}

        yield once


@contextlib.contextmanager
def waiting(url: str, number: int, count: int) -> Iterator[None]:
    """Send requests that wait, until all of them do. At the end the clients are gone."""
    head = f"POST /v1/events HTTP/1.1\r\nhost: 127.0.0.1:{number}\r\ncontent-type: application/json\r\n"
    request = f"{head}prefer: wait={SECONDS}\r\ncontent-length: {len(EVENT)}\r\n\r\n{EVENT}".encode()
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_connection(("127.0.0.1", number))) for _ in range(count)]
        for sock in sockets:
            sock.sendall(request)
        _until(url, count)
        if select.select(sockets[:500], [], [], 0)[0]:
            raise Missing("a request was answered instead of waiting")
        yield
    _until(url, 0)


def _until(url: str, count: int) -> None:
    end = time.monotonic() + PATIENCE
    while _waiting(url) != count:
        if time.monotonic() > end:
            raise Missing(f"{_waiting(url)} of {count} requests wait")
        time.sleep(0.1)


def _waiting(url: str) -> int:
    with urllib.request.urlopen(url + "/metrics") as answer:
        text = answer.read().decode()
    [line] = [line for line in text.splitlines() if line.startswith('busway_waiting_requests{kind="prefer"}')]
    return int(float(line.split()[1]))


ROW = Row(
    name="waiting",
    title=f"memory of {REQUESTS:,} requests that wait for results",
    sides=(
        Side(
            OURS,
            f"`Prefer: wait={SECONDS}`, a connection each, above the idle gateway; left_mib: when the "
            "clients are gone",
            busway,
            alone=True,
        ),
    ),
    comparisons=(Comparison("memory_mib", (), must=1.0, aim=0.5, at_most=True, theirs=20.0),),
    rounds=3,
)
