"""Open-loop load: each event has a scheduled moment, from which its latency counts to its result.

`python -m benchmarks.openloop` is a `running.Program`. A request names a `port`, the `kind` of its server,
`per_s`, `seconds`, the number of `connections` over which events are spread, and the `seed` of their
schedule, a Poisson process. It uses plain sockets and prepared requests, to load the machine as little as
possible. An event waits while all connections wait for a response; that time counts.
"""

from __future__ import annotations

import json
import random
import re
import select
import socket
import statistics
import sys
import time
from collections import deque
from dataclasses import dataclass

from benchmarks.listening import SUBSCRIBED, Step, opened
from benchmarks.peers import crossbar_node
from benchmarks.row import Reading

PATIENCE = 10.0  # seconds for the results after the last event
NUMBERED = re.compile(rb'"id":"latency-([0-9a-f]+)-([0-9]+)"')
LENGTH = re.compile(rb"content-length: *([0-9]+)", re.IGNORECASE)


@dataclass(frozen=True)
class Kind:
    """How to publish to and subscribe on one kind of server.

    Attributes:
        publish: the address to which events are posted.
        subscribe: the address of the WebSocket, with its steps and subprotocol.
        body: an event, with `%s` in the place of its id.
    """

    publish: str
    subscribe: str
    steps: tuple[Step, ...]
    protocol: str
    body: str


KINDS = {
    "busway": Kind(
        "/v1/events",
        "/v1/subscribe?types=bench.*",
        SUBSCRIBED,
        "",
        '{"type":"bench.noop","id":"%s","data":{"item":"book","quantity":2}}',
    ),
    "crossbar": Kind(
        "/publish",
        "/ws",
        crossbar_node.SUBSCRIBED,
        crossbar_node.PROTOCOL,
        '{"topic":"bench.noop","args":[{"id":"%s","item":"book","quantity":2}]}',
    ),
}


class Connection:
    """A kept-alive HTTP connection with at most one request under way."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._heard = b""

    def answered(self) -> bool:
        """Read; return whether the response is complete.

        Raises:
            RuntimeError: the server refused the event.
        """
        self._heard += self.socket.recv(1 << 16)
        head, ended, body = self._heard.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 20"):
            raise RuntimeError(f"an event was refused: {self._heard[:300]!r}")
        length = LENGTH.search(head)
        # Without a length the body is chunked; the last chunk is empty.
        whole = len(body) >= int(length[1]) if length else body.endswith(b"0\r\n\r\n")
        if ended and whole:
            self._heard = b""
        return bool(ended) and whole


class Phase:
    """A number of scheduled events and their results.

    Attributes:
        times: when each event is due, in seconds from the beginning.
        latencies: seconds from then to the result, by the event's number.
        late: the largest delay between an event's time and its sending, in seconds.
        twice: duplicate results.
    """

    def __init__(self, kind: Kind, port: int, connections: int, times: list[float]) -> None:
        self._name = f"{time.time_ns():x}"
        self.times = times
        self._requests = [self._request(kind, port, n) for n in range(len(self.times))]
        self._results = opened(port, kind.subscribe, kind.steps, kind.protocol)
        self._connections = [Connection(port) for _ in range(connections)]
        self._busy = {each.socket.fileno(): each for each in self._connections}
        self._free = deque(self._connections)
        self._epoll = select.epoll()
        for sock in (self._results, *(each.socket for each in self._connections)):
            self._epoll.register(sock.fileno(), select.EPOLLIN)
        self._tail = b""
        self.latencies: dict[int, float] = {}
        self.late, self.twice = 0.0, 0

    def _request(self, kind: Kind, port: int, n: int) -> bytes:
        body = (kind.body % f"latency-{self._name}-{n}").encode()
        head = f"POST {kind.publish} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    def run(self) -> None:
        """Send all events and wait for their results until the time is up."""
        self._began = time.perf_counter() + 0.01
        self._end = self._began + self.times[-1] + PATIENCE
        due, count = 0, len(self.times)
        while len(self.latencies) < count:
            now = time.perf_counter()
            while due < count and self._free and self._began + self.times[due] <= now:
                self._free.popleft().socket.sendall(self._requests[due])
                self.late = max(self.late, time.perf_counter() - self._began - self.times[due])
                due += 1
            if now > self._end:
                break
            # Without a free connection, wait for a response. Timeouts of `select` are in microseconds.
            next_one = self._began + self.times[due] if due < count and self._free else now + 0.1
            select.select([self._epoll.fileno()], [], [], max(0.0, next_one - time.perf_counter()))
            self._read()

    def _read(self) -> None:
        for number, _ in self._epoll.poll(0):
            connection = self._busy.get(number)
            if connection is None:
                self._take_results()
            elif connection.answered():
                self._free.append(connection)

    def _take_results(self) -> None:
        data = self._results.recv(1 << 16)
        now = time.perf_counter() - self._began
        if not data:
            raise RuntimeError("the subscriber's socket was closed")
        whole, read = self._tail + data, 0
        for found in NUMBERED.finditer(whole):
            read = found.end()
            n = int(found[2])
            if found[1].decode() == self._name:
                self.twice += n in self.latencies
                self.latencies.setdefault(n, now - self.times[n])
        self._tail = whole[max(read, len(whole) - 64) :]

    def close(self) -> None:
        """Close all sockets."""
        self._epoll.close()
        self._results.close()
        for each in self._connections:
            each.socket.close()


def schedule(per_s: float, seconds: float, seed: int) -> list[float]:
    """Return the times of a Poisson process, in seconds from its beginning."""
    chance, times, now = random.Random(seed), [], 0.0
    while now < seconds:
        times.append(now)
        now += chance.expovariate(per_s)
    return times


def measure(kind: str, port: int, per_s: float, seconds: float, connections: int, seed: int) -> Reading:
    """Run one phase after a short warm-up."""
    for length in (min(0.5, seconds), seconds):
        phase = Phase(KINDS[kind], port, connections, schedule(per_s, length, seed))
        try:
            phase.run()
        finally:
            phase.close()
    found = [value * 1000 for value in phase.latencies.values()]
    cuts = statistics.quantiles(found, n=100, method="inclusive")
    return {
        "p50_ms": cuts[49],
        "p99_ms": cuts[98],
        "events": len(found),
        "lost": len(phase.times) - len(found),
        "twice": phase.twice,
        "sent_late_ms": phase.late * 1000,
    }


def main() -> None:
    print("{}", flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
