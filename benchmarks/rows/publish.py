"""Single events a second: stored and synced, run, results stored and delivered."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
import time
import urllib.parse
import uuid
from collections.abc import Callable, Iterator

from benchmarks import running
from benchmarks.listening import Background, Clients
from benchmarks.load import CONNECTIONS, EVENT, Counter, stored, wrk, wrk_each
from benchmarks.peers import crossbar_node
from benchmarks.row import OURS, Comparison, Missing, Once, Reading, Row, Side
from benchmarks.running import PEERS

SUSTAINED = 30.0  # seconds
BESIDE = 8.0  # seconds for a peer
UVICORN = ["--no-access-log", "--loop", "uvloop", "--http", "httptools", "--log-level", "warning"]
PATIENT = ["--ws-ping-interval", "3600"]  # its subscriber answers no pings while it waits for its turn


Load = Callable[[str, float], Reading]
"""Publishes to an address for so many seconds."""


@contextlib.contextmanager
def busway(load: Load = wrk, sustained: float = SUSTAINED) -> Iterator[Once]:
    with running.busway() as gateway:
        counter = Counter(gateway.url)
        load(gateway.url + "/v1/events", 2)

        def once(effort: float) -> Reading:
            reading = load(gateway.url + "/v1/events", sustained * effort)
            ended = time.monotonic()
            counter.settle(stored(gateway.url))
            total = stored(gateway.url)  # includes events that were under way when wrk ended
            counter.settle(total)
            reading["last_result_after_s"] = max(0.0, counter.last - ended)
            reading["undelivered"] = total - counter.count
            return reading

        yield once


_ATTRIBUTES = {"specversion": "1.0", "source": "/bench", "type": json.loads(EVENT)["type"]}
_DATA = json.dumps(json.loads(EVENT)["data"], separators=(",", ":"))
_DIGITS = "0" * 10  # of an id, which each request has for itself


def structured(url: str, seconds: float) -> Reading:
    """Publish CloudEvents in structured mode."""
    attributes = json.dumps(_ATTRIBUTES | {"id": f"{uuid.uuid4()}-{_DIGITS}"}, separators=(",", ":"))
    body = f'{attributes[:-1]},"data":{_DATA}}}'
    return _cloudevents(url, seconds, {"Content-Type": "application/cloudevents+json"}, body)


def binary(url: str, seconds: float) -> Reading:
    """Publish CloudEvents in binary mode."""
    attributes = {f"ce-{name}": value for name, value in _ATTRIBUTES.items()}
    headers = {**attributes, "ce-id": f"{uuid.uuid4()}-{_DIGITS}", "Content-Type": "application/json"}
    return _cloudevents(url, seconds, headers, _DATA)


def _cloudevents(url: str, seconds: float, headers: dict[str, str], body: str) -> Reading:
    parts = urllib.parse.urlsplit(url)
    headers = {"Host": parts.netloc, **headers, "Content-Length": str(len(body))}
    lines = [f"POST {parts.path} HTTP/1.1", *(f"{name}: {value}" for name, value in headers.items())]
    before, _, after = "\n".join([*lines, "", body]).partition(_DIGITS)
    return wrk_each(url, seconds, before, after)


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
    body = json.dumps({"topic": crossbar_node.TOPIC, "args": [json.loads(EVENT)["data"]]})
    with crossbar_node.node() as number:
        steps, protocol = crossbar_node.SUBSCRIBED, crossbar_node.PROTOCOL
        clients = Clients(number, 1, "/ws", crossbar_node.EVENT, None, steps, protocol)
        url = f"http://127.0.0.1:{number}/publish"
        with contextlib.closing(Background(clients)) as subscriber:
            wrk(url, 1, body)
            yield lambda effort: delivered(url, effort, body, subscriber)


@contextlib.contextmanager
def naive() -> Iterator[Once]:
    if importlib.util.find_spec("greenlet") is None:
        raise Missing("SQLAlchemy's AsyncSession needs greenlet, which is not installed: sqlalchemy[asyncio]")
    number = running.port()
    url = f"http://127.0.0.1:{number}"
    command = [sys.executable, "-m", "uvicorn", "naive:app", "--app-dir", str(PEERS), "--port", str(number)]
    with running.folder() as place:
        environment = {"NAIVE_DATABASE": str(place / "naive.db")}
        with (
            running.running([*command, *UVICORN, *PATIENT], url + "/openapi.json", env=environment),
            contextlib.closing(Background(Clients(number, 1, mark=b'"result":'))) as subscriber,
        ):
            wrk(url + "/v1/events", 1)
            yield lambda effort: delivered(url + "/v1/events", effort, EVENT, subscriber)


def delivered(url: str, effort: float, body: str, subscriber: Background) -> Reading:
    """Publish to a peer, and check that all accepted events reached its subscriber."""
    before = subscriber.clients.items
    reading = wrk(url, BESIDE * effort, body)
    subscriber.settle(before + round(reading["requests"]))
    # Events that were under way when wrk ended are delivered too, but wrk does not count them.
    reading["undelivered"] = max(0.0, before + reading["requests"] - subscriber.clients.items)
    return reading


ROW = Row(
    name="publish",
    title=f"single events a second, {CONNECTIONS} connections",
    sides=(
        Side(OURS, "synced, process pool, a subscriber; sustained for 30 s", busway),
        Side("fastapi", "an endpoint with a pydantic body that stores nothing; uvloop, httptools", fastapi),
        Side(
            "busway_structured",
            "the same, CloudEvents in structured mode, each with an id of its own",
            lambda: busway(structured, BESIDE),
        ),
        Side(
            "busway_binary",
            "the same, CloudEvents in binary mode, each with an id of its own",
            lambda: busway(binary, BESIDE),
        ),
        Side(
            "crossbar",
            "Crossbar.io, its documented production settings: HTTP publisher to one WAMP subscriber; it "
            "stores nothing and runs nothing",
            crossbar,
        ),
        Side(
            "naive",
            "FastAPI, uvloop, httptools: AsyncSession commit (SQLite, WAL, synced), ProcessPoolExecutor, "
            "commit, send_json to one subscriber",
            naive,
        ),
    ),
    comparisons=(
        Comparison("requests_per_s", ("fastapi",), must=1.5, aim=2.5),
        Comparison("requests_per_s", ("crossbar",), must=3, aim=6),
        Comparison("requests_per_s", ("naive",), must=40, aim=60),
        Comparison("requests_per_s", (OURS,), must=0.85, aim=1, side="busway_structured"),
        Comparison("requests_per_s", (OURS,), must=0.85, aim=1, side="busway_binary"),
        Comparison("last_result_after_s", (), must=1, aim=0.1, at_most=True, theirs=1.0),
    ),
)
