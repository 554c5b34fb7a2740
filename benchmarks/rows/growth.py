"""Publishing, resuming and listing with a million stored events, beside the same with ten thousand.

Both databases are seeded by SQL, which is not measured. Two gateways, one for each, take turns in short
slices.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from urllib.parse import urlsplit

from websockets.sync.client import ClientConnection, connect

from benchmarks import running, seeding
from benchmarks.load import EVENT
from benchmarks.row import OURS, Comparison, Missing, Once, Row, Side

LARGE, SMALL = 1_000_000, 10_000
EVERY = 0.01  # seconds between events: the run of each ends before the next event
PUBLISHED, RESUMED, LISTED = 60, 10, 10  # in one slice; LISTED of each list
BEHIND = 1_000  # seeded results that a resuming subscriber has missed
PAGE = 100


class Client:
    """One connection for requests and one WebSocket."""

    def __init__(self, url: str, behind: str, middle: str, subscriber: ClientConnection) -> None:
        self._http = http.client.HTTPConnection(urlsplit(url).netloc)
        self._behind, self._subscriber = behind, subscriber
        self._lists = {
            "events": f"/v1/events?limit={PAGE}",
            "runs": f"/v1/runs?limit={PAGE}",
            "results": f"/v1/results?limit={PAGE}&after={middle}",
        }

    def once(self, effort: float) -> dict[str, float]:
        """Measure one slice."""
        lists = {name: self._list(path, round(LISTED * effort) or 1) for name, path in self._lists.items()}
        medians = {f"list_{name}_p50_ms": statistics.median(taken) for name, taken in lists.items()}
        return {
            "publish_p50_ms": statistics.median(self._publish(round(PUBLISHED * effort) or 1)),
            "resume_p50_ms": statistics.median(self._resume() for _ in range(round(RESUMED * effort) or 1)),
            "list_p50_ms": statistics.median([one for taken in lists.values() for one in taken]),
            **medians,
        }

    def _publish(self, count: int) -> list[float]:
        """Publish events one after another on a schedule; a latency counts from the scheduled moment."""
        begun, taken = time.perf_counter(), []
        for n in range(count):
            scheduled = begun + n * EVERY
            time.sleep(max(0.0, scheduled - time.perf_counter()))
            self._request("POST", "/v1/events", EVENT)
            taken.append((time.perf_counter() - scheduled) * 1000)
        time.sleep(EVERY)
        return taken

    def _resume(self) -> float:
        """Subscribe at a cursor; return the milliseconds until its first results arrived."""
        asked = json.dumps({"op": "subscribe", "id": "r", "after": self._behind})
        begun = time.perf_counter()
        self._subscriber.send(asked)
        self._await("results")
        taken = (time.perf_counter() - begun) * 1000
        self._subscriber.send('{"op":"unsubscribe","id":"r"}')
        self._await("unsubscribed")
        return taken

    def _await(self, op: str) -> None:
        start = f'{{"op":"{op}"'
        while not (frame := str(self._subscriber.recv(timeout=30))).startswith(start):
            if frame.startswith('{"op":"error"') or '"recovered":false' in frame[:300]:
                raise Missing(f"it could not resume: {frame[:300]}")

    def _list(self, path: str, count: int) -> list[float]:
        taken = []
        for _ in range(count):
            begun = time.perf_counter()
            body = self._request("GET", path)
            taken.append((time.perf_counter() - begun) * 1000)
            if len(json.loads(body)["items"]) != PAGE:
                raise Missing(f"{path} returned less than a full page")
        return taken

    def _request(self, method: str, path: str, body: str | None = None) -> bytes:
        self._http.request(method, path, body, {"Content-Type": "application/json"})
        answer = self._http.getresponse()
        read = answer.read()
        if answer.status not in {200, 202}:
            raise Missing(f"{method} {path} was answered by {answer.status}: {read[:300]!r}")
        return read


def stored(events: int) -> Callable[[], AbstractContextManager[Once]]:
    """Return a function that seeds a database with a number of events and starts a gateway on it."""

    @contextlib.contextmanager
    def opened() -> Iterator[Once]:
        with running.folder() as place:
            seeding.seed(place, events)
            behind, middle = seeding.place_of(place, events - BEHIND), seeding.place_of(place, events // 2)
            with running.busway("--retention=3650d", place=place) as gateway:
                address = gateway.url.replace("http", "ws", 1) + "/v1/subscribe"
                with connect(address, max_size=None, compression=None) as subscriber:
                    client = Client(gateway.url, behind, middle, subscriber)
                    client.once(0.2)  # warm
                    yield client.once

    return opened


def _settings(events: int) -> str:
    return (
        f"{events:,} events with their runs and results, synced; one connection that publishes an event each "
        f"{EVERY * 1000:.0f} ms; a subscription {BEHIND:,} results behind until its first results; "
        f"pages of {PAGE} events, runs, and results from the middle of the log"
    )


ROW = Row(
    name="growth",
    title="publish, resume and list with a million events stored",
    sides=(
        Side(OURS, _settings(LARGE), stored(LARGE)),
        Side("busway_small", _settings(SMALL), stored(SMALL)),
    ),
    comparisons=tuple(
        Comparison(metric, ("busway_small",), must=1.3, aim=1.1, at_most=True)
        for metric in ("publish_p50_ms", "resume_p50_ms", "list_p50_ms")
    ),
    rounds=15,
)
