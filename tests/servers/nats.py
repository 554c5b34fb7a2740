"""A NATS server for tests: real, on a free port."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sysconfig
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.ports import unused_port
from tests.servers.postgres import PATIENCE, end_with_parent

_PROGRAM = Path(sysconfig.get_path("scripts")) / "nats-server"


class NatsServer:
    """A server of NATS core. It runs until `close`, and stays on its port over restarts.

    Args:
        settings: of its configuration file.
    """

    def __init__(self, **settings: Any) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="busway-nats-")
        self.port = unused_port()
        self._log = Path(self._folder.name) / "log"
        self._config = Path(self._folder.name) / "nats.conf"
        self._process: subprocess.Popen[bytes] | None = None
        self.set(**settings)

    def set(self, **settings: Any) -> None:
        """Change its settings; they hold from its next start on."""
        known = {"host": "127.0.0.1", "port": self.port}
        self._config.write_text(json.dumps(known | settings), encoding="utf-8")

    def start(self) -> NatsServer:
        """Start it and wait until it answers."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [_PROGRAM, "-c", self._config],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=end_with_parent,  # noqa: PLW1509 - tests start it in their only thread
            )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while not self._answers():
            assert self._process.poll() is None, self._log.read_text()
            assert time.monotonic() < deadline, self._log.read_text()
            time.sleep(0.02)
        return self

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=5) as sock:
                return sock.recv(5) == b"INFO "
        except OSError:
            return False

    def url(self, scheme: str = "nats", user: str = "") -> str:
        """Return its URL. `user`: what stands before the `@`."""
        return f"{scheme}://{user and user + '@'}127.0.0.1:{self.port}"

    def kill(self) -> None:
        """Kill it. All connections break."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(PATIENCE)
            self._process = None

    def freeze(self) -> None:
        """Stop it: connections stay open, and nothing answers."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server continue."""
        assert self._process is not None
        os.kill(self._process.pid, signal.SIGCONT)

    def close(self) -> None:
        """Kill it and delete its folder."""
        self.kill()
        self._folder.cleanup()
