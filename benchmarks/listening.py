"""Many sockets in one process, read at the lowest cost that Python allows: they only count items."""

from __future__ import annotations

import base64
import os
import resource
import select
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

ITEM = b'{"cursor":'
AT_ONCE = 500  # sockets opened before their responses are read


@dataclass(frozen=True)
class Step:
    """One step of opening a connection: read until `awaited`, then send `said`."""

    awaited: bytes
    said: bytes = b""


UPGRADED = (Step(b"\r\n\r\n"),)
SUBSCRIBED = (Step(b"\r\n\r\n"), Step(b'"op":"subscribed"'))


def text_frame(text: str) -> bytes:
    """Return a WebSocket frame from a client, masked with zeros, so that the text stays readable."""
    data = text.encode()
    size = len(data)
    short = size < 126
    head = struct.pack("!BB", 0x81, 0x80 | size) if short else struct.pack("!BBH", 0x81, 0x80 | 126, size)
    return head + bytes(4) + data


def upgrade(port: int, path: str, protocol: str = "") -> bytes:
    """Return the request that opens a WebSocket."""
    key = base64.b64encode(os.urandom(16)).decode()
    offered = f"Sec-WebSocket-Protocol: {protocol}\r\n" if protocol else ""
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"{offered}Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def opened(port: int, path: str, steps: Sequence[Step] = UPGRADED, protocol: str = "") -> socket.socket:
    """Open one WebSocket and return its socket.

    Raises:
        ConnectionError: the server did not open it.
    """
    sock = socket.create_connection(("127.0.0.1", port), timeout=30)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(upgrade(port, path, protocol))
    heard = sock.recv(1 << 16)
    if not heard.startswith(b"HTTP/1.1 101"):
        sock.close()
        raise ConnectionError(f"no WebSocket at {path}: {heard[:100]!r}")
    for step in steps:
        while step.awaited not in heard:
            data = sock.recv(1 << 16)
            if not data:
                raise ConnectionError(f"closed while it opened, after {heard[-200:]!r}")
            heard += data
        heard = heard.partition(step.awaited)[2]
        if step.said:
            sock.sendall(step.said)
    return sock


def allow_many_sockets() -> None:
    """Raise the limit of open files of this process and its children to the allowed maximum."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


class Clients:
    """Sockets on one epoll that count received items.

    Attributes:
        items: how often `mark` arrived, over all sockets.
        frames: how often `frame` arrived, if given.
        last: when the last data arrived, by `time.monotonic`.
    """

    def __init__(
        self,
        port: int,
        count: int,
        path: str = "/v1/subscribe",
        mark: bytes = ITEM,
        frame: bytes | None = None,
        steps: Sequence[Step] = UPGRADED,
        protocol: str = "",
    ) -> None:
        self.port, self.items, self.frames, self.last = port, 0, 0, 0.0
        self.sockets: dict[int, socket.socket] = {}
        self._path, self._mark, self._frame, self._protocol = path, mark, frame, protocol
        self._kept = max(len(mark), len(frame or b"")) - 1  # bytes that may be the beginning of a mark
        self._epoll = select.epoll()
        self._tails: dict[int, bytes] = {}  # of the sockets that are open
        self._opening: dict[int, tuple[bytes, list[Step]]] = {}
        for start in range(0, count, AT_ONCE):
            for n in range(start, min(start + AT_ONCE, count)):
                self._open(n, steps)
            self.read(lambda: not self._opening)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _open(self, n: int, steps: Sequence[Step]) -> None:
        sock = socket.socket()
        sock.bind((f"127.0.0.{2 + n % 8}", 0))  # several addresses: one address has too few ports
        sock.connect(("127.0.0.1", self.port))
        sock.sendall(upgrade(self.port, self._path, self._protocol))
        sock.setblocking(False)
        self.sockets[sock.fileno()] = sock
        self._opening[sock.fileno()] = (b"", list(steps))
        self._epoll.register(sock.fileno(), select.EPOLLIN)

    def read(self, enough: Callable[[], bool], patience: float = 120) -> None:
        """Read from all sockets until the condition holds.

        Raises:
            TimeoutError: it did not hold within `patience` seconds.
            ConnectionError: the server closed a socket.
        """
        end = time.monotonic() + patience
        while not enough():
            self.poll(0.05)
            if time.monotonic() > end:
                raise TimeoutError(f"timeout: {self.items} items on {len(self._tails)} sockets")

    def poll(self, timeout: float) -> None:
        """Read once from the sockets with data; wait at most `timeout` seconds."""
        ready = self._epoll.poll(timeout)
        tails, mark, frame, kept = self._tails, self._mark, self._frame, self._kept
        for number, _ in ready:
            data = self.sockets[number].recv(1 << 16)
            if not data:
                raise ConnectionError(f"a socket was closed after {self.items} items")
            tail = tails.get(number)
            if tail is None:
                tail, data = b"", self._opened(number, data)
                if not data:
                    continue
            # The tail may be the beginning of a mark that was cut, and may contain the whole shorter mark,
            # which was counted with its own data.
            whole = tail + data
            self.items += whole.count(mark) - tail.count(mark)
            if frame is not None:
                self.frames += whole.count(frame) - tail.count(frame)
            tails[number] = whole[-kept:]
        if ready:
            self.last = time.monotonic()

    def _opened(self, number: int, data: bytes) -> bytes:
        """Take the steps that this data allows; return the data after the last one, empty if steps remain."""
        said, steps = self._opening[number]
        whole = said + data
        while steps and steps[0].awaited in whole:
            step = steps.pop(0)
            whole = whole.partition(step.awaited)[2]
            if step.said:
                self.sockets[number].sendall(step.said)
        if steps:
            self._opening[number] = (whole, steps)
            return b""
        del self._opening[number]
        self._tails[number] = b""
        return whole

    def drain(self, seconds: float) -> None:
        """Read for the given seconds."""
        end = time.monotonic() + seconds
        self.read(lambda: time.monotonic() > end)

    def close(self) -> None:
        """Close all sockets."""
        for sock in self.sockets.values():
            sock.close()
        self._epoll.close()


class Background(threading.Thread):
    """Reads from clients in a thread of this process until `close`."""

    def __init__(self, clients: Clients) -> None:
        super().__init__(daemon=True)
        self.clients, self._ended = clients, False
        self.start()

    def run(self) -> None:
        """Read until the end."""
        while not self._ended:
            self.clients.poll(0.05)

    def settle(self, total: int, patience: float = 30.0) -> None:
        """Wait until `total` items arrived or the time is up."""
        end = time.monotonic() + patience
        while self.clients.items < total and time.monotonic() < end:
            time.sleep(0.002)

    def close(self) -> None:
        """Stop reading and close the clients."""
        self._ended = True
        self.join()
        self.clients.close()
