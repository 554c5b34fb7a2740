"""How long one request holds the event loop: the longest answer of `/healthz` beside it, and its memory.

Every request is within the default limits. A plain event of 1 MiB is what the others are compared with.
"""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks import running
from benchmarks.listening import text_frame, upgrade
from benchmarks.row import OURS, Comparison, Once, Reading, Row, Side

PATIENCE = 120.0
MIB = 1 << 20
HANDLERS = """
from busway import handler
ANY = [{"exact": {"data.a": -n}} for n in range(256)]
@handler("filtered", filter={"any": ANY})
def filtered(event):
    return None
@handler("many")
def many(event, ctx):
    for n in range(15):
        ctx.publish("child", "x" * 1_000_000)
""" + "".join(f"@handler('own{n}.*')\ndef own{n}(event):\n    return None\n" for n in range(1000))


class Connection:
    """A kept-alive connection that sends requests and reads the answers whole."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
        self._file = self._sock.makefile("rb")

    def ask(self, method: str, path: str, body: bytes = b"") -> int:
        """Send a request, read its answer, and return the status."""
        head = f"{method} {path} HTTP/1.1\r\nhost: 127.0.0.1:{self._port}\r\n"
        head += f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        with contextlib.suppress(ConnectionError):  # a refused body need not be read
            self._sock.sendall(head.encode() + body)
        status = int(self._file.readline().split()[1])
        length = 0
        while line := self._file.readline().strip().lower():
            if line.startswith(b"content-length:"):
                length = int(line.partition(b":")[2])
        self._file.read(length)
        return status


class Probe:
    """Asks for `/healthz` all the time, and keeps the longest answer and the most memory."""

    def __init__(self, port: int, pid: int) -> None:
        self._connection, self._status = Connection(port), Path(f"/proc/{pid}/statm")
        self.longest = self.memory = 0.0
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Probe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ends.is_set():
            began = time.monotonic()
            self._connection.ask("GET", "/healthz")
            self.longest = max(self.longest, time.monotonic() - began)
            pages = int(self._status.read_text().split()[1])
            self.memory = max(self.memory, pages * 4096 / MIB)
            self._ends.wait(0.001)


def array(events: Iterator[str]) -> bytes:
    """Return the body of many events."""
    return f"[{','.join(events)}]".encode()


def attributes() -> str:
    return ",".join(f'"a{n}":"x"' for n in range(200))


def digits(count: int) -> str:
    return '{"type":"t","data":[' + ",".join(["1" * 300] * count) + "]}"


BODIES: dict[str, Callable[[int], tuple[str, bytes]]] = {
    "plain": lambda _: ("/v1/events", b'{"type":"t","data":"' + b"x" * (MIB - 100) + b'"}'),
    "digits": lambda _: ("/v1/events", digits(3400).encode()),
    "digits_31": lambda _: ("/v1/events", array(digits(3400) for _ in range(31))),
    "handler_33mb": lambda _: ("/v1/handlers", b'{"name":[' + b"{}," * 11_000_000 + b"{}]}"),
    "handler_1mib": lambda _: ("/v1/handlers", b'{"name":[' + b"{}," * 349_000 + b"{}]}"),
    "too_many": lambda _: ("/v1/events", b"[" + b"{}," * 11_000_000 + b"{}]"),
    "dense": lambda _: ("/v1/events", b'{"type":"t","data":[' + b"{}," * 349_000 + b"{}]}"),
    "new_types": lambda turn: (
        "/v1/events",
        array(f'{{"type":"new{turn}.t{n}"}}' for n in range(10_000)),
    ),
    "filter": lambda _: ("/v1/events", array('{"type":"filtered","data":{"a":1}}' for _ in range(10_000))),
    "attributes": lambda _: (
        "/v1/events",
        array('{"type":"t",' + attributes() + "}" for _ in range(10_000)),
    ),
    "large_array": lambda _: (
        "/v1/events",
        array('{"type":"t","data":"' + "x" * 3170 + '"}' for _ in range(10_000)),
    ),
}


def subscribe(port: int) -> socket.socket:
    """Return a socket that asks for 1,000 subscriptions, each with another filter of 256 comparisons."""
    sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
    sock.sendall(upgrade(port, "/v1/subscribe"))
    for n in range(1000):
        filters = [{"exact": {"subject": f"{n}-{m}"}} for m in range(256)]
        frame = json.dumps({"op": "subscribe", "id": str(n), "filter": {"any": filters}})
        sock.sendall(text_frame(frame))
    return sock


@contextlib.contextmanager
def _open() -> Iterator[Once]:
    with running.busway(handlers=HANDLERS) as gateway:
        port, pid = int(gateway.url.rpartition(":")[2]), gateway.process.pid
        connection = Connection(port)
        turns = iter(range(1 << 30))
        connection.ask(*_request("plain", 0))

        def beside(name: str, work: Callable[[], object]) -> Reading:
            before = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096 / MIB
            with Probe(port, pid) as probe:
                work()
                time.sleep(0.3)  # what follows the answer: runs, results
            return {f"{name}_ms": probe.longest * 1000, f"{name}_mib": max(0.0, probe.memory - before)}

        def once(_effort: float) -> Reading:
            found: Reading = {}
            turn = next(turns)
            for name in BODIES:
                request = _request(name, turn)
                found |= beside(name, lambda request=request: connection_for(port, request))
            with contextlib.closing(subscribe(port)) as sock:
                reader = threading.Thread(target=_discard, args=(sock,), daemon=True)
                reader.start()
                events = array('{"type":"own1.x"}' for _ in range(40))
                found |= beside("subscriptions", lambda: connection.ask("POST", "/v1/events", events))
            found |= beside(
                "publishing",
                lambda: (connection.ask("POST", "/v1/events", b'{"type":"many"}'), time.sleep(1)),
            )
            found |= beside("page", lambda: connection.ask("GET", "/v1/events?limit=1000"))
            return found

        yield once


def connection_for(port: int, request: tuple[str, str, bytes]) -> int:
    """Send a request on a connection of its own: a refused body ends its connection."""
    return Connection(port).ask(*request)


def _request(name: str, turn: int) -> tuple[str, str, bytes]:
    return ("POST", *BODIES[name](turn))


def _discard(sock: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while sock.recv(1 << 16):
            pass


NAMES = (*BODIES, "subscriptions", "publishing", "page")
ROW = Row(
    name="blocking",
    title="the longest answer of /healthz beside one request",
    sides=(Side(OURS, "1,003 handlers; each request alone, 33 MB at most; memory is what it adds", _open),),
    comparisons=tuple(
        Comparison(f"{name}_ms", (), must=50, aim=20, at_most=True, theirs=1.0) for name in NAMES
    ),
    rounds=3,
)
