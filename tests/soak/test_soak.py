"""Hours of load and faults: `make soak SECONDS=3600`. Nothing acknowledged is missing, and nothing leaks."""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import random
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
import pytest
from busway import SyncClient

from tests.e2e.service import FINAL, Service, until

SECONDS = float(os.environ.get("SOAK_SECONDS", "60"))
SEED = int(os.environ.get("SOAK_SEED", "0")) or random.SystemRandom().getrandbits(32)
DESCRIPTORS = 256
MEMORY = 10 << 20  # bytes that the gateway may hold more or less than before
RESULTS = 60_000  # more than the gateway keeps in memory

HANDLERS = """
import os, time
from busway import handler

SOON = {"initial": 0.1, "factor": 1}

@handler("soak.quick", pool="process")
def quick(event): return event.data

@handler("soak.thread", pool="thread")
def thread(event):
    time.sleep(0.002)
    return event.data

@handler("soak.stream")
async def stream(event):
    for n in range(3):
        yield n

@handler("soak.fails", pool="thread", max_attempts=3, backoff=SOON)
def fails(event, ctx):
    if ctx.attempt == 1:
        raise ValueError("the first attempt fails")

@handler("soak.crash", pool="process", max_attempts=3, backoff=SOON)
def crash(event, ctx):
    if ctx.attempt == 1:
        os._exit(3)

@handler("soak.loud", pool="process")
def loud(event):
    print("x" * 65_536)

@handler("soak.hog", memory=128)
def hog(event):
    return len(bytearray(16 << 20))
"""
TYPES = {"quick": 60, "thread": 40, "stream": 20, "fails": 4, "crash": 1, "loud": 2, "hog": 1}


class Census(NamedTuple):
    """What a gateway holds when nothing is under way."""

    processes: int
    zombies: int
    descriptors: int
    threads: int
    memory: int


class Soak:
    """A gateway, what publishes to it, who listens, and what harms it."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self.random = random.Random(SEED)
        self.stopping = threading.Event()
        self.acknowledged: set[str] = set()
        self.final: dict[str, int] = {}
        self.faults: dict[str, int] = {}
        self.numbers = itertools.count()
        self.cursor: str | None = None
        self.errors: list[BaseException] = []

    # -- load

    def publish(self, name: int) -> None:
        """Publish batches until the end; what is not acknowledged is sent again under the same ids."""
        chance = random.Random(f"{SEED}-{name}")
        with httpx.Client(verify=False, timeout=60) as client:
            while not self.stopping.is_set():
                types = chance.choices(list(TYPES), list(TYPES.values()), k=chance.choice((1, 20)))
                batch = [self._event(name, type_, chance.randrange(500)) for type_ in types]
                while not self._sent(client, batch) and not self.stopping.is_set():
                    time.sleep(0.2)
                time.sleep(0.05)

    def _event(self, name: int, type_: str, size: int) -> dict[str, str]:
        return {"type": f"soak.{type_}", "id": f"{name}-{next(self.numbers)}", "data": "x" * size}

    def _sent(self, client: httpx.Client, batch: list[dict[str, Any]]) -> bool:
        try:
            answer = client.post(f"{self.service.url}/v1/events", json=batch)
        except httpx.TransportError:
            return False
        if answer.status_code == 202:
            self.acknowledged.update(event["id"] for event in batch)
        else:
            assert answer.status_code == 503, answer.text
        return answer.status_code == 202

    def listen(self) -> None:
        """Count the final results of each event."""
        with SyncClient(self.service.url) as client:
            for item in client.subscribe(
                "soak.**", kinds=["succeeded", "dead", "cancelled"], after=self.cursor or "earliest"
            ):
                self.cursor = item.cursor
                self.final[item.event.id] = self.final.get(item.event.id, 0) + 1
                if self.stopping.is_set() and self.acknowledged <= self.final.keys():
                    return

    # -- faults

    def harm(self) -> None:
        """Do harm of every kind until the end."""
        kinds: list[Callable[[], None]] = [
            self.kill_child,
            self.flood,
            self.kill_child_in_flood,
            self.break_off,
            self.talk_nonsense,
            self.read_nothing,
        ]
        while not self.stopping.is_set():
            kind = self.random.choice(kinds)
            self.faults[kind.__name__] = self.faults.get(kind.__name__, 0) + 1
            with contextlib.suppress(OSError, httpx.HTTPError, psutil.Error):
                kind()
            self.stopping.wait(self.random.random() * 2)

    def kill_child(self) -> None:
        """Kill the committer, the zygote, or a worker."""
        children = psutil.Process(self.service.pid).children(recursive=True)
        if children:
            self.random.choice(children).send_signal(self.random.choice((signal.SIGKILL, signal.SIGSEGV)))

    @contextlib.contextmanager
    def flooded(self) -> Iterator[None]:
        """Hold more connections than the gateway has descriptors."""
        with contextlib.ExitStack() as stack:
            for _ in range(DESCRIPTORS + 50):
                stack.enter_context(self.connection())
            yield

    def flood(self) -> None:
        """Take all descriptors for a second."""
        with self.flooded():
            self.stopping.wait(1)

    def kill_child_in_flood(self) -> None:
        """Kill a child while there are no descriptors for another."""
        with self.flooded():
            self.kill_child()
            self.stopping.wait(1)

    def break_off(self) -> None:
        """Send half a body."""
        with self.connection() as connection:
            connection.sendall(
                b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999\r\n\r\n{"
            )

    def talk_nonsense(self) -> None:
        """Send bytes that are no HTTP."""
        with self.connection() as connection:
            connection.sendall(self.random.randbytes(500) + b"\r\n\r\n")
            connection.recv(1000)

    def read_nothing(self) -> None:
        """Subscribe to everything and read none of it for a while."""
        with self.connection() as connection:
            connection.sendall(b"GET /v1/subscribe/sse?after=earliest HTTP/1.1\r\nHost: localhost\r\n\r\n")
            self.stopping.wait(2)

    def connection(self) -> socket.socket:
        """Connect to the gateway."""
        return socket.create_connection(("127.0.0.1", int(self.service.options["port"])), timeout=10)

    def disturb(self, seconds: float) -> None:
        """Publish, listen and do harm. Then all that was acknowledged has exactly one final result."""
        self.stopping.clear()
        jobs = [self.listen, self.harm, *(functools.partial(self.publish, n) for n in range(2))]
        threads = [threading.Thread(target=self.run, args=(job,), daemon=True) for job in jobs]
        for thread in threads:
            thread.start()
        self.stopping.wait(seconds)
        self.stopping.set()
        for thread in threads[1:]:
            thread.join()
        until(lambda: self.service.get("/readyz").status_code == 200, "readiness")
        self.service.publish("soak.quick")  # wakes the listener, which ends when it has everything
        threads[0].join(300)
        print(f"{len(self.acknowledged)} events, faults: {self.faults}")
        assert self.errors == []
        assert sorted(self.acknowledged - self.final.keys()) == []
        assert [event for event, count in self.final.items() if count > 1] == []
        until(self.idle, "the last runs")
        # Without work, workers of handlers with a memory limit end after five seconds, and the gateway gives
        # free memory back to the system after two to four.
        time.sleep(15)

    # -- measuring

    def run(self, job: Callable[[], None]) -> None:
        """Run a job and keep its exception."""
        try:
            job()
        except BaseException as error:
            self.errors.append(error)
            self.stopping.set()

    def census(self) -> Census:
        """Count what the gateway holds."""
        gateway = psutil.Process(self.service.pid)
        family = gateway.children(recursive=True)
        clients = [c for c in gateway.net_connections("tcp") if c.raddr]
        zombies = [p for p in family if p.status() == psutil.STATUS_ZOMBIE]
        return Census(
            processes=len(family),
            zombies=len(zombies),
            descriptors=gateway.num_fds() - len(clients),
            threads=gateway.num_threads(),
            memory=gateway.memory_info().rss,
        )

    def idle(self) -> bool:
        """Return whether no run is unfinished."""
        return not self.service.unfinished()


@pytest.fixture
def soak(tmp_path: Path) -> Iterator[Soak]:
    print(f"SOAK_SEED={SEED}")
    service = Service(tmp_path, workers=2, retention="5m")
    service.write("soak.py", HANDLERS)
    service.start()
    psutil.Process(service.pid).rlimit(resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))
    try:
        yield Soak(service)
    finally:
        service.close()


@pytest.mark.long
@pytest.mark.soak
def test_load_and_faults_lose_nothing_and_leave_nothing(soak: Soak) -> None:
    """The first quarter of the time fills what may be filled: results in memory, caches, the allocator."""
    service = soak.service
    for _ in range(RESULTS // 1000):
        service.ok("POST", "/v1/events", [{"type": "soak.quick", "data": "x" * 250}] * 1000)
    for type_ in TYPES:
        assert service.run_of(service.publish(f"soak.{type_}")["seq"])["state"] in FINAL
    soak.disturb(SECONDS / 4)
    before = soak.census()
    soak.disturb(SECONDS * 3 / 4)

    def is_as_before() -> bool:
        now = soak.census()
        return (
            now.processes == before.processes
            and not now.zombies
            and now.descriptors <= before.descriptors
            and now.threads <= before.threads
            and abs(now.memory - before.memory) <= MEMORY
        )

    try:
        until(is_as_before, "processes, descriptors, threads and memory to be as before")
    finally:
        print(f"before: {before}\nafter:  {soak.census()}")
