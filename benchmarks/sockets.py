"""Many subscribers: memory of each, fan-out, and all of them coming back at once.

Beside Busway stands a bare ASGI application on the same uvicorn settings, which accepts, and sends the same
text to all. The clients are one process that reads as cheaply as it can and answers nothing.

    .venv/bin/python benchmarks/sockets.py [SOCKETS] [FANOUT]
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import platform
import resource
import select
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx

HANDLER = "from busway import handler\n@handler('bench.*')\ndef noop(event):\n    return None\n"
BARE = """
import asyncio, sys
import uvicorn
from app.cork import CorkedHttp
from app.keepalive import PING_EVERY, PONG_WITHIN, PatientWebSocket

sockets = set()

async def app(scope, receive, send):
    if scope["type"] == "http":
        count, text = int(scope["path"][1:] or 0), scope["query_string"].decode()
        for _ in range(count):
            for other in list(sockets):
                await other({"type": "websocket.send", "text": text})
            await asyncio.sleep(0)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})
        return
    await receive()
    await send({"type": "websocket.accept"})
    sockets.add(send)
    while (await receive())["type"] != "websocket.disconnect":
        pass
    sockets.discard(send)

uvicorn.run(app, port=int(sys.argv[1]), loop="uvloop", http=CorkedHttp, ws=PatientWebSocket,
    ws_per_message_deflate=False, ws_ping_interval=PING_EVERY, ws_ping_timeout=PONG_WITHIN, lifespan="off",
    log_config=None, access_log=False, proxy_headers=False, server_header=False, backlog=4096)
"""
ITEM = b'{"cursor":'
TEXT = json.dumps(
    {"op": "results", "id": "default", "items": [{"cursor": "x" * 400}], "cursor": "c" * 40},
    separators=(",", ":"),
)


class Clients:
    """Sockets on one epoll that count the items which come."""

    def __init__(self, port: int, count: int, query: str = "") -> None:
        self.port, self.items, self.last = port, 0, 0.0
        self.epoll = select.epoll()
        self.sockets: dict[int, socket.socket] = {}
        self.tails: dict[int, bytes] = {}
        self.cursor = ""
        for start in range(0, count, 500):
            for n in range(start, min(start + 500, count)):
                self._open(n, query)
            self.read(lambda: len(self.tails) == len(self.sockets))

    def _open(self, n: int, query: str) -> None:
        sock = socket.socket()
        sock.bind((f"127.0.0.{2 + n % 8}", 0))
        sock.connect(("127.0.0.1", self.port))
        key = base64.b64encode(os.urandom(16)).decode()
        sock.sendall(
            f"GET /v1/subscribe{query} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        sock.setblocking(False)
        self.sockets[sock.fileno()] = sock
        self.epoll.register(sock.fileno(), select.EPOLLIN)

    def read(self, enough: Callable[[], bool], patience: float = 120) -> None:
        end = time.monotonic() + patience
        while not enough():
            if time.monotonic() > end:
                raise SystemExit(f"waited in vain: {self.items} items on {len(self.tails)} sockets")
            for number, _ in self.epoll.poll(0.05):
                data = self.sockets[number].recv(1 << 18)
                if not data:
                    raise SystemExit("a socket was closed")
                whole = self.tails.get(number, b"") + data
                self.items += whole.count(ITEM)
                self.tails[number] = whole[-len(ITEM) + 1 :] if whole[-len(ITEM) :] != ITEM else b""
                self.last = time.monotonic()

    def drain(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        self.read(lambda: time.monotonic() > end)

    def close(self) -> None:
        for sock in self.sockets.values():
            sock.close()
        self.epoll.close()


def resident(pid: int) -> int:
    """Bytes that are the process's own."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Private_")) * 1024


@contextlib.contextmanager
def serving(command: list[str], port: int, path: str) -> Iterator[subprocess.Popen[bytes]]:
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, stdout=quiet, stderr=quiet)
    try:
        while True:
            with contextlib.suppress(httpx.TransportError):
                if httpx.get(f"http://127.0.0.1:{port}{path}").status_code < 500:
                    break
            time.sleep(0.05)
        yield process
    finally:
        process.terminate()
        process.wait()


def bare(_folder: Path, port: int) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    return serving([sys.executable, "-c", BARE, str(port)], port, "/")


def busway(folder: Path, port: int) -> contextlib.AbstractContextManager[subprocess.Popen[bytes]]:
    (folder / "handlers").mkdir(exist_ok=True)
    (folder / "handlers" / "noop.py").write_text(HANDLER)
    command = [sys.executable, "-m", "app", "serve", f"--port={port}", f"--handlers={folder / 'handlers'}"]
    return serving([*command, f"--database-url=sqlite:///{folder}/bench.db"], port, "/readyz")


def memory(process: subprocess.Popen[bytes], port: int, count: int, query: str) -> tuple[float, Clients]:
    """Connect and return MiB above the idle service, with the clients."""
    warm = Clients(port, 200, query)
    warm.close()
    time.sleep(2)
    before = resident(process.pid)
    clients = Clients(port, count, query)
    clients.drain(3)
    return (resident(process.pid) - before) / (1 << 20), clients


def publish(port: int, count: int) -> None:
    events = [{"type": "bench.noop"}] * count
    httpx.post(f"http://127.0.0.1:{port}/v1/events", json=events, timeout=60).raise_for_status()


def fanout_ours(port: int, clients: Clients, rounds: int) -> float:
    """Publish one event after the other, each once the first subscriber has the one before."""
    count, began, before = len(clients.sockets), time.monotonic(), clients.items
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as http:
        for n in range(rounds):
            http.post("/v1/events", json={"type": "bench.noop"}).raise_for_status()
            wanted = before + n * count + 1
            clients.read(lambda wanted=wanted: clients.items >= wanted)  # type: ignore[misc]
        clients.read(lambda: clients.items >= before + rounds * count)
    return count * rounds / (clients.last - began)


def fanout_bare(port: int, clients: Clients, rounds: int) -> float:
    count, before = len(clients.sockets), clients.items
    with socket.create_connection(("127.0.0.1", port)) as asking:
        began = time.monotonic()
        asking.sendall(f"GET /{rounds}?{TEXT} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        clients.read(lambda: clients.items >= before + rounds * count)
    return count * rounds / (clients.last - began)


def storm(port: int, count: int, behind: int) -> tuple[float, int]:
    """All connect at once with a cursor; return the seconds until all have what they missed, and repeats."""
    url = f"http://127.0.0.1:{port}"
    cursor = httpx.get(url + "/v1/results?after=latest").json()["cursor"]
    publish(port, behind)
    while httpx.get(url + "/v1/results", params={"after": cursor, "limit": 1000}).json()["next"]:
        time.sleep(0.1)
    time.sleep(2)
    began = time.monotonic()
    clients = Clients(port, count, f"?after={cursor}")
    clients.read(lambda: clients.items >= count * behind)
    clients.close()
    return clients.last - began, clients.items - count * behind


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    width = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    with tempfile.TemporaryDirectory() as name:
        found = {}
        for peer, start, port, query in (
            ("bare", bare, 8393, ""),
            ("busway", busway, 8394, "?types=bench.*"),
        ):
            with start(Path(name), port) as process:
                mib, clients = memory(process, port, count, query)
                clients.close()
                found[peer] = mib
                print(
                    f"{peer}: {count} sockets, {mib:.0f} MiB, {mib * 1024 / count:.1f} KiB each", flush=True
                )
                if peer == "busway":
                    seconds, repeats = storm(port, count, 100)
                    print(
                        f"storm: all came back and had 100 results each in {seconds:.1f} s, {repeats} repeats"
                    )
        print(f"sockets: {found['busway'] / found['bare']:.2f} times the bare loop")
        rates: dict[str, list[float]] = {"bare": [], "busway": []}
        with bare(Path(name), 8393), busway(Path(name), 8394):
            theirs, ours = Clients(8393, width), Clients(8394, width, "?types=bench.*")
            ours.drain(1)
            for _ in range(3):
                rates["bare"].append(fanout_bare(8393, theirs, 100))
                rates["busway"].append(fanout_ours(8394, ours, 100))
        medians = {peer: statistics.median(of) for peer, of in rates.items()}
        ours_rate, bare_rate = medians["busway"], medians["bare"]
        print(f"fanout: {ours_rate:.0f} / {bare_rate:.0f} frames/s = {ours_rate / bare_rate:.2f}")


if __name__ == "__main__":
    main()
