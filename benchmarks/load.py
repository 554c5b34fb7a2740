"""Load generators: wrk in its own process, and a subscriber that counts."""

from __future__ import annotations

import contextlib
import json
import subprocess
import tempfile
import threading
import time
import urllib.request
from collections.abc import Mapping

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from benchmarks.row import Reading
from benchmarks.running import tool

CONNECTIONS = 64
EVENT = '{"type":"bench.noop","data":{"item":"book","quantity":2}}'
_BODY = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = [[%s]]
"""
_EACH = """
local sent = 0
local before, after = [[%s]], [[%s]]
before, after = before:gsub("\\n", "\\r\\n"), after:gsub("\\n", "\\r\\n")
request = function()
  sent = sent + 1
  return before .. string.format("%%010d", sent) .. after
end
"""
_DONE = """
done = function(summary, latency)
  io.write(string.format("%d %d %d %f %f\\n", summary.requests, summary.duration,
    summary.errors.status + summary.errors.connect + summary.errors.read + summary.errors.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


def wrk(
    url: str,
    seconds: float,
    body: str = EVENT,
    connections: int = CONNECTIONS,
    headers: Mapping[str, str] | None = None,
) -> Reading:
    """POST the same body repeatedly in a closed loop, for whole seconds. As `_run`."""
    more = "".join(f'wrk.headers["{name}"] = "{value}"\n' for name, value in (headers or {}).items())
    return _run(url, seconds, _BODY % body + more, connections)


def wrk_each(url: str, seconds: float, before: str, after: str) -> Reading:
    """Send a request repeatedly, each with its own ten digits between `before` and `after`. As `_run`."""
    return _run(url, seconds, _EACH % (before, after), CONNECTIONS)


def _run(url: str, seconds: float, script_: str, connections: int) -> Reading:
    """Run wrk with a script.

    Returns `requests`, `requests_per_s`, `p50_ms`, `p99_ms` and `errors`.

    Raises:
        Missing: wrk cannot be installed.
    """
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(script_ + _DONE)
        script.flush()
        command = [tool("wrk", "wrk"), "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s"]
        command += ["-s", script.name, url]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    requests, micros, errors, p50, p99 = map(float, out.strip().splitlines()[-1].split())
    return {
        "requests": requests,
        "requests_per_s": requests / micros * 1e6,
        "p50_ms": p50 / 1000,
        "p99_ms": p99 / 1000,
        "errors": errors,
    }


class Counter(threading.Thread):
    """A WebSocket subscriber in a thread of this process; its own work is a few percent of the load.

    Attributes:
        count: results of attempts that succeeded, so far.
        last: when the last one arrived, by `time.monotonic`.
    """

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.count, self.last = 0, 0.0
        address = url.replace("http", "ws", 1) + "/v1/subscribe?after=latest"
        self._socket = connect(address, max_size=None, compression=None, max_queue=None)
        self._socket.recv()  # subscribed
        self.start()

    def run(self) -> None:
        """Count until the gateway closes."""
        with contextlib.suppress(ConnectionClosed):
            for frame in self._socket:
                self.last = time.monotonic()
                self.count += frame.count('"kind":"succeeded"')  # type: ignore[arg-type]

    def settle(self, total: int, patience: float = 30.0) -> None:
        """Wait until `total` results arrived or no more arrive."""
        end = time.monotonic() + patience
        while self.count < total and time.monotonic() < end:
            time.sleep(0.002)

    def close(self) -> None:
        """Disconnect."""
        self._socket.close()


def post(url: str, body: str | bytes, timeout: float = 60.0) -> bytes:
    """POST one JSON body and return the response's body."""
    data = body.encode() if isinstance(body, str) else body
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=timeout) as answer:
        return answer.read()  # type: ignore[no-any-return]


def stored(url: str) -> int:
    """Return how many events a gateway has stored."""
    with urllib.request.urlopen(url + "/v1/events?limit=1") as answer:
        items = json.load(answer)["items"]
    return int(items[0]["seq"]) if items else 0
