"""PgBouncer for tests, on a free port, in front of a PostgreSQL server."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import psycopg

from tests.ports import unused_port
from tests.servers.postgres import NOBODY, PATIENCE, PostgresServer

PATH = f"{os.environ['PATH']}:/usr/sbin"  # where Debian puts it


class PgBouncer:
    """A pool of connections. It runs until `close`.

    Args:
        server: the server.
        mode: its pool mode.
        options: other settings, by name.
    """

    def __init__(self, server: PostgresServer, mode: str, **options: str) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="busway-pgbouncer-")
        folder = Path(self._folder.name)
        folder.chmod(0o755)
        self.port = unused_port()
        settings = {
            "pool_mode": mode,
            "listen_addr": "127.0.0.1",
            "listen_port": str(self.port),
            "unix_socket_dir": "",
            "auth_type": "trust",
            "auth_file": str(folder / "users"),
        } | options
        (folder / "users").write_text('"postgres" ""\n')
        self._config = folder / "pgbouncer.ini"
        self._config.write_text(
            f"[databases]\n* = host=127.0.0.1 port={server.port}\n[pgbouncer]\n"
            + "".join(f"{name} = {value}\n" for name, value in settings.items())
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> PgBouncer:
        """Start it and wait until it answers."""
        user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        with (self._config.parent / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [str(shutil.which("pgbouncer", path=PATH)), self._config],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={"PATH": PATH},
                **user,
            )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while True:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.url("postgres"), connect_timeout=10).close()
                return self
            said = (self._config.parent / "log").read_text()
            assert self._process.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.02)

    def url(self, database: str) -> str:
        """Return the URL by which a database is reached through the pool."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def switch(self, mode: str) -> None:
        """Change its pool mode while it runs. Transactions that begin later are pooled in this way."""
        assert self._process is not None
        text = re.sub("(?m)^pool_mode = .*", f"pool_mode = {mode}", self._config.read_text())
        self._config.write_text(text)
        self._process.send_signal(signal.SIGHUP)

    def kill(self) -> None:
        """Kill it. All connections break."""
        if self._process is not None:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait(PATIENCE)
            self._process = None

    def close(self) -> None:
        """Kill it and delete its folder."""
        self.kill()
        self._folder.cleanup()
