"""The lower bound of publish to result: Busway's hops and syncs, in processes that do nothing else.

An event goes from the client to a gateway, to a committer that writes and syncs, back, to the client as a
response and to a worker, back from there, to the committer again, back, and to the subscriber. All sockets
are plain. Requests are those of `openloop`: `per_s`, `seconds` and `seed`.
"""

from __future__ import annotations

import os
import select
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from benchmarks.openloop import schedule
from benchmarks.peers.answering import answer

EVENT = b"x" * 200
PAGES, PAGE = 8, b"x" * 4096  # about as much as a commit of one event writes
FILE_PAGES = 1024


class Committer:
    """Overwrites a file of fixed size, like a log after a checkpoint, and syncs it."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(PAGE * FILE_PAGES)
        self._file, self._at = os.open(path, os.O_RDWR), 0
        os.fsync(self._file)

    def commit(self) -> None:
        """Write some pages and sync them."""
        for _ in range(PAGES):
            os.pwrite(self._file, PAGE, self._at * len(PAGE))
            self._at = (self._at + 1) % FILE_PAGES
        os.fdatasync(self._file)


def forked(work: Callable[[], None]) -> None:
    """Run it in a child process until its input ends."""
    if os.fork() == 0:
        with suppress(OSError):
            work()
        os._exit(0)


def echo(sock: socket.socket, before: Callable[[], None] | None = None) -> None:
    """Send back what it receives."""
    while data := sock.recv(1 << 16):
        if before is not None:
            before()
        sock.sendall(data)


def gateway(clients: list[socket.socket], committer: socket.socket, worker: socket.socket) -> None:
    """Pass each event on; one is under way at a time."""
    publisher, subscriber = clients
    loop, published = select.epoll(), True
    for sock in (publisher, committer, worker):
        loop.register(sock.fileno(), select.EPOLLIN)
    while True:
        for number, _ in loop.poll():
            if number == committer.fileno():
                data = committer.recv(1 << 16)
                if published:
                    publisher.sendall(data)
                    worker.sendall(data)
                else:
                    subscriber.sendall(data)
                continue
            published = number == publisher.fileno()
            data = (publisher if published else worker).recv(1 << 16)
            if not data:
                return
            committer.sendall(data)


def chain(place: Path) -> tuple[socket.socket, socket.socket]:
    """Start all processes; return the publisher's socket and the subscriber's."""
    listener = socket.create_server(("127.0.0.1", 0))
    ours = [socket.create_connection(listener.getsockname()) for _ in range(2)]
    theirs = [listener.accept()[0] for _ in range(2)]
    for sock in (*ours, *theirs):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    (committer, asked), (worker, given) = socket.socketpair(), socket.socketpair()
    sockets = {*ours, *theirs, listener, committer, asked, worker, given}

    def with_only(kept: set[socket.socket], work: Callable[[], None]) -> Callable[[], None]:
        def alone() -> None:
            for sock in sockets - kept:
                sock.close()
            work()

        return alone

    file = Committer(place / "log")
    forked(with_only({asked}, lambda: echo(asked, file.commit)))
    forked(with_only({given}, lambda: echo(given)))
    forked(with_only({*theirs, committer, worker}, lambda: gateway(theirs, committer, worker)))
    for sock in sockets - set(ours):
        sock.close()
    return ours[0], ours[1]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        publisher, subscriber = chain(Path(name))

        def once(per_s: float, seconds: float, seed: int) -> dict[str, float]:
            taken, begun = [], time.perf_counter()
            for due in schedule(per_s, seconds, seed):
                time.sleep(max(0.0, begun + due - time.perf_counter()))
                publisher.sendall(EVENT)
                publisher.recv(1 << 16)
                subscriber.recv(1 << 16)
                taken.append((time.perf_counter() - begun - due) * 1000)
            cuts = statistics.quantiles(taken, n=100, method="inclusive")
            return {"idle_p50_ms": cuts[49], "idle_p99_ms": cuts[98], "idle_events": len(taken)}

        answer(once)


if __name__ == "__main__":
    sys.exit(main())
