"""Single events published a second, beside a FastAPI endpoint that stores nothing.

Busway stores each event with disk sync, runs a no-op handler in the process pool, stores its result
and delivers it to one WebSocket subscriber. Load: wrk, 64 connections, from a process of its own.

    .venv/bin/python benchmarks/publish.py [SECONDS] [ROUNDS]
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

CONNECTIONS = 64
LUA = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = '{"type":"bench.noop","data":{"item":"book","quantity":2}}'
done = function(summary, latency)
  io.write(string.format("%d %d %d %f %f\\n", summary.requests, summary.duration,
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""
BASELINE = """
from typing import Any
from fastapi import FastAPI
from pydantic import BaseModel

class Event(BaseModel):
    type: str
    data: Any = None

app = FastAPI()

@app.post("/v1/events", status_code=202)
async def publish(event: Event) -> dict[str, str]:
    return {"type": event.type}
"""
HANDLER = "from busway import handler\n@handler('bench.*')\ndef noop(event):\n    return None\n"


class Subscriber(threading.Thread):
    """Counts what comes, in the process that also waits for wrk; its own work is a few percent."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url, self.count, self.last = url, 0, 0.0
        self.start()

    def run(self) -> None:
        address = self.url.replace("http", "ws", 1) + "/v1/subscribe?after=latest"
        with (
            connect(address, max_size=None, compression=None) as socket,
            contextlib.suppress(ConnectionClosed),
        ):
            for frame in socket:
                self.last = time.monotonic()
                self.count += frame.count('"kind":"succeeded"')


def wrk(url: str, seconds: float, folder: Path) -> tuple[float, float, float, int]:
    script = folder / "post.lua"
    script.write_text(LUA)
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds:g}s", "-s", str(script), url + "/v1/events"]
    out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    requests, micros, errors, p50, p99 = out.strip().splitlines()[-1].split()
    return int(requests) / int(micros) * 1e6, float(p50) / 1000, float(p99) / 1000, int(errors)


def wait_ready(url: str, path: str) -> None:
    while True:
        try:
            if httpx.get(url + path).status_code < 500:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.05)


@contextlib.contextmanager
def fastapi(folder: Path) -> Iterator[str]:
    (folder / "noop.py").write_text(BASELINE)
    command = [sys.executable, "-m", "uvicorn", "noop:app", "--port", "8391", "--no-access-log"]
    command += ["--loop", "uvloop", "--http", "httptools"]
    yield from serving(command, "http://127.0.0.1:8391", "/openapi.json", folder)


@contextlib.contextmanager
def busway(folder: Path) -> Iterator[str]:
    (folder / "handlers").mkdir()
    (folder / "handlers" / "noop.py").write_text(HANDLER)
    command = [sys.executable, "-m", "app", "serve", "--port", "8392", "--pool", "process"]
    command += ["--handlers", str(folder / "handlers"), "--database-url", f"sqlite:///{folder}/bench.db"]
    yield from serving(command, "http://127.0.0.1:8392", "/readyz", None)


def serving(command: list[str], url: str, path: str, folder: Path | None) -> Iterator[str]:
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, cwd=folder, stdout=quiet, stderr=quiet)
    try:
        wait_ready(url, path)
        yield url
    finally:
        process.terminate()
        process.wait()


def delivered(subscriber: Subscriber, url: str, ended: float) -> dict[str, float]:
    """Wait for the last result; say how long after the last 202 it came, and how many never did."""
    while time.monotonic() - max(subscriber.last, ended) < 1.5:
        time.sleep(0.05)
    stored = httpx.get(url + "/v1/events?limit=1").json()["items"][0]["seq"]
    return {
        "last_result_after_s": round(subscriber.last - ended, 3),
        "undelivered": stored - subscriber.count,
    }


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 30
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    if shutil.which("wrk") is None:
        sys.exit("this needs wrk, the load generator: apt-get install wrk")
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    rates: dict[str, list[float]] = {"fastapi": [], "busway": []}
    with tempfile.TemporaryDirectory() as name, fastapi(Path(name)) as theirs, busway(Path(name)) as ours:
        subscriber = Subscriber(ours)
        for url in (theirs, ours):
            wrk(url, 2, Path(name))
        for _ in range(rounds):
            row: dict[str, object] = {}
            for peer, url in (("fastapi", theirs), ("busway", ours)):
                rate, p50, p99, errors = wrk(url, seconds, Path(name))
                row[peer] = {"rate": round(rate), "p50_ms": p50, "p99_ms": p99, "errors": errors}
                rates[peer].append(rate)
            print(json.dumps(row | delivered(subscriber, ours, time.monotonic())), flush=True)
    medians = {peer: statistics.median(found) for peer, found in rates.items()}
    each = [round(b / f, 2) for f, b in zip(rates["fastapi"], rates["busway"], strict=True)]
    ratio = medians["busway"] / medians["fastapi"]
    print(f"medians {medians['busway']:.0f} / {medians['fastapi']:.0f} = {ratio:.2f}")
    print(f"ratios of the rounds {each}, median {statistics.median(each):.2f}")


if __name__ == "__main__":
    main()
