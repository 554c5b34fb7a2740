"""A real gateway in a process of its own, and what tests ask of it."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from tests import forked
from tests.documents.answers import as_described
from tests.documents.frames import heard
from tests.ports import unused_port
from tests.servers import chosen

PATIENCE = 120.0  # seconds; far more than anything here takes
FINAL = {"succeeded", "dead", "cancelled"}


def until(probe: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """Return the first truthy value of `probe`."""
    begin = time.monotonic()
    while True:
        value = probe()
        if value:
            return value
        waited = time.monotonic() - begin
        if waited > patience:
            raise AssertionError(f"waited {patience:.0f} s in vain for {what}; last: {value!r}")
        time.sleep(min(max(0.01, waited / 6), 0.1))  # asking a gateway takes CPU time


def until_none(left: Callable[[], int], what: str) -> None:
    """Wait until nothing is left, for as long as it becomes less."""
    before = left()
    while before:
        before = until(lambda before=before: (now := left()) < before and [now], what)[0]


def join(threads: Sequence[threading.Thread], *received: Sequence[Any]) -> None:
    """Wait for threads, for as long as they receive anything."""
    for thread in threads:
        before = -1
        while thread.is_alive() and (now := sum(map(len, received))) > before:
            before = now
            thread.join(PATIENCE)


class Service:
    """`busway serve` on a folder; the port stays the same over restarts.

    With BUSWAY_TEST_NODES=2 it has a second node, `beside`, on the same database and handlers folder. `url`
    then names both in turn, so that each request goes to another node than the request before. Both start,
    stop and are killed together, and write the same log. `process`, `pid`, `options` and `own_url` are those
    of the first.
    """

    prepares = True  # its database has the newest schema before the first start, unless it is there already

    def __init__(self, folder: Path, **options: Any) -> None:
        self.folder = folder
        self.handlers = folder / "handlers"
        self.handlers.mkdir(exist_ok=True)
        self.options = {"port": unused_port(), "handlers": self.handlers, "workers": 2, **options}
        if broker := chosen.broker_of(folder):
            self.options["broker_url"] = broker
        self.database = folder / "busway.db"  # if it is SQLite
        self.database_url = chosen.url_of(folder)
        self.log = folder / "log"
        self.process: subprocess.Popen[str] | None = None
        self.beside: Service | None = None
        self.own_url = self.announcement = ""
        self._turns = itertools.count()
        self.key: str | None = None
        self.variables: dict[str, str] = {}  # of its environment, besides those of the tests
        self.described = True  # its answers are as the documents of this release say
        self.admin: str | None = None
        # Certificates, which nothing here has, take 50 ms to load.
        self.client = httpx.Client(
            timeout=PATIENCE, limits=httpx.Limits(max_keepalive_connections=0), verify=False
        )

    @property
    def url(self) -> str:
        """The address of a node: each time of another one."""
        return self.urls[next(self._turns) % len(self.urls)]

    @property
    def urls(self) -> list[str]:
        """The addresses of all nodes."""
        return [self.own_url] if self.beside is None else [self.own_url, self.beside.own_url]

    @property
    def database_shown(self) -> str:
        """The database as the running gateway shows it."""
        shown: str = self.ok("GET", "/v1/status")["disk"]["database"]
        return shown

    def write(self, name: str, source: str) -> None:
        """Put a file there at once: nobody reads half of one."""
        new = self.handlers / f".{name}.new"
        new.write_text(source, encoding="utf-8")
        new.replace(self.handlers / name)

    def command(self) -> list[str]:
        options = [
            f"--{name.replace('_', '-')}" if value is True else f"--{name.replace('_', '-')}={value}"
            for name, value in self.options.items()
        ]
        return [
            sys.executable,
            "-m",
            "busway",
            "serve",
            f"--database-url={self.database_url}",
            *options,
        ]

    def launch(self) -> subprocess.Popen[str]:
        with self.log.open("ab") as log:
            return forked.Popen(
                self.command(), stdout=subprocess.PIPE, stderr=log, text=True,
                env={**clean_environment(), **self.variables},
            )  # fmt: skip

    def start(self) -> Service:
        if self.prepares and self.database_url == chosen.url_of(self.folder):
            chosen.prepare(self.folder)
        if chosen.NODES == 2:
            self.beside = self.beside or Service(self.folder)
            self.beside.options = {**self.options, "port": self.beside.options["port"]}
            self.beside.database_url, self.beside.variables = self.database_url, self.variables
            self.beside.process = self.beside.launch()
        self.process = self.launch()
        if self.beside is not None:
            self.beside.announced()
        return self.announced()

    def announced(self) -> Service:
        """Wait until the process says its address and takes work."""
        assert self.process is not None
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("busway http"), f"it did not start: {line!r} {self.log.read_text()[-2000:]}"
        self.own_url, self.announcement = line.split()[1], line
        until(lambda: self.client.get(f"{self.own_url}/readyz").status_code == 200, "readiness")
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self._reap()

    def signal(self, number: int) -> None:
        """Send a signal to each node."""
        assert self.process is not None
        self.process.send_signal(number)
        if self.beside is not None and self.beside.process is not None:
            self.beside.signal(number)

    def logged(self, words: str) -> str:
        """Wait until the log has these words, because a thread writes it. Return the log."""

        def written() -> str | None:
            text = self.log.read_text()
            return text if words in text else None

        return str(until(written, f"the log to have {words!r}"))

    def terminate(self) -> None:
        self.signal(signal.SIGTERM)

    def stop(self) -> int:
        self.terminate()
        return self._reap()

    def _reap(self) -> int:
        """Wait until each node has ended. Return the status: if both failed, of the first."""
        assert self.process is not None
        status = self.process.wait(PATIENCE)
        if self.process.stdout:
            self.process.stdout.close()
        self.process = None
        if self.beside is not None and self.beside.process is not None:
            other = self.beside._reap()
            status = status or other
        return status

    def close(self) -> None:
        for node in (self, self.beside):
            if node is not None:
                node.client.close()
                if node.process is not None:
                    node.kill()
        chosen.drop(self.folder)

    # -- HTTP

    def request(self, method: str, path: str, **more: Any) -> httpx.Response:
        headers = dict(more.pop("headers", {}))
        if self.key:
            headers["Authorization"] = f"Bearer {self.key}"
        answer = self.client.request(method, self.url + path, headers=headers, **more)
        return as_described(answer) if self.described else answer

    def get(self, path: str, **more: Any) -> httpx.Response:
        return self.request("GET", path, **more)

    def post(self, path: str, body: Any = None, **more: Any) -> httpx.Response:
        return self.request("POST", path, json=body, **more)

    def ok(self, method: str, path: str, body: Any = None) -> Any:
        answer = self.request(method, path, json=body) if body is not None else self.request(method, path)
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json() if answer.content else None

    def publish(self, type_: str, data: Any = None, **attributes: Any) -> dict[str, Any]:
        receipt: dict[str, Any] = self.ok("POST", "/v1/events", {"type": type_, "data": data, **attributes})
        return receipt

    def results(self, after: str | None = None, **params: Any) -> list[dict[str, Any]]:
        """The whole log, page by page."""
        items: list[dict[str, Any]] = []
        while True:
            page = self.get(
                "/v1/results",
                params={"limit": 1000, "after": after, **params} if after else {"limit": 1000, **params},
            )
            assert page.status_code == 200, page.text
            body = page.json()
            items += body["items"]
            after = body["cursor"]
            if body["next"] is None:
                return items

    def runs(
        self, *, enough: Callable[[list[dict[str, Any]]], bool] = lambda page: False, **params: Any
    ) -> list[dict[str, Any]]:
        """The runs, newest first, page by page, up to the first page that is enough."""
        items: list[dict[str, Any]] = []
        after: dict[str, Any] = {}
        while True:
            page = self.get("/v1/runs", params={"limit": 1000, **params, **after}).json()
            items += page["items"]
            if page["next"] is None or enough(page["items"]):
                return items
            after = {"after": page["next"]}

    def unfinished(self) -> int:
        """How many runs have not ended, counted in one look: a run that ends may start others."""
        counts = [each["stats"]["runs"] for each in self.ok("GET", "/v1/handlers?limit=1000")["items"]]
        states = ("available", "retryable", "running")
        return sum(count.get(state, 0) for count in counts for state in states)

    def finished(self, seq: int) -> dict[str, Any]:
        """Wait until all runs of an event are final; return the event."""

        def probe() -> Any:
            event = self.ok("GET", f"/v1/events/{seq}")
            return event if event["runs"] and all(r["state"] in FINAL for r in event["runs"]) else None

        event: dict[str, Any] = until(probe, f"the runs of event {seq}")
        return event

    def all_finished(self, receipts: list[dict[str, Any]]) -> None:
        """Wait until all runs of these events are final."""
        wanted = {receipt["seq"]: receipt["runs"] for receipt in receipts}
        first = min(wanted)

        def left() -> int:
            runs = self.runs(enough=lambda page: page[-1]["event"] < first)
            found = Counter(run["event"] for run in runs if run["state"] in FINAL)
            return sum(count - found[seq] for seq, count in wanted.items())

        until_none(left, f"the runs of {len(wanted)} events")

    def run_of(self, seq: int, index: int = 0) -> dict[str, Any]:
        """Wait for an event's run and return it with its attempts."""
        detail: dict[str, Any] = self.ok("GET", f"/v1/runs/{self.finished(seq)['runs'][index]['id']}")
        return detail

    # -- WebSocket

    @contextlib.contextmanager
    def connect(
        self, query: str = "", url: str | None = None, headers: dict[str, str] | None = None, **more: Any
    ) -> Iterator[ClientConnection]:
        headers = {"Authorization": f"Bearer {self.key}"} if self.key else {**(headers or {})}
        url = (url or self.url).replace("http", "ws", 1) + "/v1/subscribe" + query
        # With a bounded queue of its own, a client that leaves frames unread waits ten seconds to close.
        options = {"max_size": None, "max_queue": None, "compression": None, **more}
        with connect(url, additional_headers=headers, **options) as socket:
            yield socket

    @contextlib.contextmanager
    def subscribed(self, **fields: Any) -> Iterator[ClientConnection]:
        with self.connect() as socket:
            say(socket, op="subscribe", id="s", **fields)
            answer = hear(socket)
            assert answer["op"] == "subscribed", answer
            yield socket


def say(socket: ClientConnection, **frame: Any) -> None:
    socket.send(json.dumps(frame))


def hear(socket: ClientConnection, patience: float = PATIENCE) -> dict[str, Any]:
    frame: dict[str, Any] = json.loads(socket.recv(timeout=patience))
    return heard(frame)


def items(socket: ClientConnection, wanted: int) -> list[dict[str, Any]]:
    """Receive items until there are so many."""
    found: list[dict[str, Any]] = []
    while len(found) < wanted:
        frame = hear(socket)
        assert frame["op"] == "results", frame
        found += frame["items"]
    return found


def items_until(socket: ClientConnection, enough: Callable[[dict[str, Any]], bool]) -> list[dict[str, Any]]:
    """Receive items until one is enough; others may follow it in its frame."""
    found: list[dict[str, Any]] = []
    while not any(map(enough, found)):
        frame = hear(socket)
        assert frame["op"] == "results", frame
        found += frame["items"]
    return found


def clean_environment() -> dict[str, str]:
    """Return the environment without our settings, and without what a make passes on to every other make."""
    ours = ("BUSWAY_", "MAKE", "MFLAGS")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}
