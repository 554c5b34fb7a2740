"""A Redis server for the peers that need one."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Iterator

from benchmarks import running
from benchmarks.row import Missing

SETTINGS = "Redis with default settings, without snapshots: it writes nothing to disk"


@contextlib.contextmanager
def redis() -> Iterator[str]:
    """The URL of a new, empty server on this machine.

    Raises:
        Missing: it cannot be installed or does not start.
    """
    number = running.port()
    with running.folder() as place:
        command = [running.tool("redis-server", "redis-server"), f"--port {number}", "--bind 127.0.0.1"]
        with running.running([*command, f"--dir {place}", "--save", ""]) as process:
            end = time.monotonic() + running.PATIENCE
            while not _answers(number):
                if process.poll() is not None or time.monotonic() > end:
                    raise Missing("redis-server did not start")
                time.sleep(0.02)
            yield f"redis://127.0.0.1:{number}/0"


def _answers(number: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", number), timeout=5) as sock:
            sock.sendall(b"PING\r\n")
            return sock.recv(64).startswith(b"+PONG")
    except OSError:
        return False
