"""How long a cell of three nodes stands still when one of them ends: killed, restarted, frozen."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator

import psutil
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from benchmarks import running
from benchmarks.row import OURS, Comparison, Once, Reading, Row, Side
from benchmarks.rows.cluster import database

NODES = 3
PER_S = 100  # events a second
BEFORE, AFTER = 2.0, 2.0  # seconds of load before the fault, and after the last result of what came before
PATIENCE = 60.0  # seconds
DEADLINE = 10.0  # seconds after which a silent node counts as gone
HANDLER = (
    "import time\nfrom busway import handler\n@handler('bench.*')\ndef short(event):\n    time.sleep(0.05)\n"
)


class Load:
    """Publishes at a steady rate over one connection, and notes when each event's result arrives.

    Attributes:
        sent: when each event was published, by its number; `time.monotonic`.
        arrived: when its result came.
    """

    def __init__(self, url: str) -> None:
        self.sent: dict[int, float] = {}
        self.arrived: dict[int, float] = {}
        self._address = url.removeprefix("http://")
        self._socket = connect(f"ws://{self._address}/v1/subscribe?after=latest", max_queue=None)
        self._socket.recv()  # subscribed
        self._end = threading.Event()
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._publish, self._listen)]
        for thread in self._threads:
            thread.start()

    def _publish(self) -> None:
        with contextlib.closing(http.client.HTTPConnection(self._address, timeout=PATIENCE)) as connection:
            begun, number = time.monotonic(), 0
            while not self._end.wait(max(0.0, begun + number / PER_S - time.monotonic())):
                self.sent[number] = time.monotonic()
                body = json.dumps({"type": "bench.short", "data": number, "subject": str(number)})
                connection.request("POST", "/v1/events", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                if answer.status != 202:
                    raise RuntimeError(f"an event was answered with {answer.status}: {answer.read()!r}")
                answer.read()
                number += 1

    def _listen(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            for frame in self._socket:
                for item in json.loads(frame)["items"]:
                    if item["kind"] == "succeeded":
                        self.arrived[int(item["event"]["subject"])] = time.monotonic()

    def stop(self) -> None:
        """Stop publishing, wait for all results, disconnect."""
        self._end.set()
        self._threads[0].join()
        end = time.monotonic() + PATIENCE
        while len(self.arrived) < len(self.sent) and time.monotonic() < end:
            time.sleep(0.01)
        self._socket.close()

    def after(self, fault: float) -> Reading:
        """Return how long results were missing after a moment.

        `ended_after_s`: from the fault to the last result of an event published before it. `still_s`: the
        longest time without any result. `lost`: events without a result.
        """
        before = [number for number, sent in self.sent.items() if sent < fault]
        times = sorted(at for at in self.arrived.values() if at > fault)
        pauses = [later - earlier for earlier, later in zip([fault, *times], times, strict=False)]
        return {
            "ended_after_s": max(self.arrived.get(number, fault + PATIENCE) for number in before) - fault,
            "still_s": max(pauses),
            "lost": float(len(self.sent) - len(self.arrived)),
        }


def kill(process: psutil.Process) -> None:
    """Kill a node's first process; the others end with it."""
    process.kill()


def restart(process: psutil.Process) -> None:
    """Let a node drain and end."""
    process.terminate()


def freeze(process: psutil.Process) -> None:
    """Stop all processes of a node."""
    for each in (process, *process.children(recursive=True)):
        each.suspend()


@contextlib.contextmanager
def ended(fault: Callable[[psutil.Process], None], *, leader: bool) -> Iterator[Once]:
    """A new cell for each round. Clients are at a node that stays and does not lead."""

    def once(_: float) -> Reading:
        with contextlib.ExitStack() as stack:
            url = stack.enter_context(database()).url("bench")
            start = [f"--database-url={url}", "--workers=2"]
            nodes = [stack.enter_context(running.busway(*start, handlers=HANDLER)) for _ in range(NODES)]
            victim = nodes[0] if leader else nodes[1]  # the first node leads
            if not leads(nodes[0].url):
                raise RuntimeError("the first node does not lead")
            process = psutil.Process(victim.process.pid)
            load = Load(nodes[2].url)
            time.sleep(BEFORE)
            began = time.monotonic()
            fault(process)
            before = list(load.sent)
            end = began + PATIENCE
            while any(number not in load.arrived for number in before) and time.monotonic() < end:
                time.sleep(0.01)
            time.sleep(AFTER)
            load.stop()
            for each in (process, *process.children(recursive=True)) if process.is_running() else ():
                with contextlib.suppress(psutil.NoSuchProcess):
                    os.kill(each.pid, signal.SIGKILL)
            return load.after(began)

    yield once


def leads(url: str) -> bool:
    """Return whether the node at an address is the leader."""
    with urllib.request.urlopen(url + "/v1/status") as answer:
        nodes = json.load(answer)["nodes"]
    return any(node["leader"] and node["this"] for node in nodes)


ROW = Row(
    name="failover",
    title=f"three nodes on PostgreSQL, {PER_S} events/s of 50 ms: one of them ends",
    sides=(
        Side(
            OURS,
            "a node with workers is killed: from then to the last result of an event published before",
            lambda: ended(kill, leader=False),
            alone=True,
        ),
        Side("busway_leader", "the leader is killed", lambda: ended(kill, leader=True), alone=True),
        Side("busway_restart", "the leader gets SIGTERM", lambda: ended(restart, leader=True), alone=True),
        Side(
            "busway_frozen",
            "all processes of a node are stopped, as when its machine dies",
            lambda: ended(freeze, leader=False),
            alone=True,
        ),
    ),
    comparisons=(
        Comparison("ended_after_s", (), must=1, aim=0.47, at_most=True, theirs=1.5),
        Comparison("still_s", (), must=1, aim=0.47, at_most=True, theirs=1.5, side="busway_leader"),
        Comparison("still_s", (), must=1, aim=0.3, at_most=True, theirs=1.0, side="busway_restart"),
        Comparison(
            "ended_after_s", (), must=1.3, aim=1.1, at_most=True, theirs=DEADLINE, side="busway_frozen"
        ),
    ),
)
