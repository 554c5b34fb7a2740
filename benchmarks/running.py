"""Starts, queries and ends the measured processes, and installs what they need."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.row import Missing, Reading

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "benchmarks" / "peers"
PATIENCE = 60.0  # seconds for a start
NOOP = "from busway import handler\n@handler('bench.*')\ndef noop(event):\n    return None\n"


def port() -> int:
    """Return a free port."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def tool(command: str, package: str) -> str:
    """Return the path of a program of the system; install its Debian package if possible.

    Raises:
        Missing: it cannot be installed; the text says how to install it.
    """
    if shutil.which(command) is None:
        if os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise Missing(f"{command} is not installed: apt-get install {package}")
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        subprocess.run(["apt-get", "update", "-qq"], check=False, **quiet)  # type: ignore[call-overload]
        install = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", package]
        subprocess.run(install, env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"}, check=False, **quiet)  # type: ignore[call-overload]
    found = shutil.which(command)
    if found is None:
        raise Missing(f"{command} could not be installed: apt-get install {package}")
    return found


def python(environment: str, module: str) -> str:
    """Return the interpreter of the peers' environment; create it from its lock if needed.

    Args:
        environment: the name of `benchmarks/ENVIRONMENT.lock` and of the folder beside our own environment.
        module: a module that must be importable there.

    Raises:
        Missing: it cannot be installed or imported; the text says why.
    """
    folder = Path(sys.prefix).parent / f"bench-{environment}"
    interpreter, lock = folder / "bin" / "python", ROOT / "benchmarks" / f"{environment}.lock"
    stamp = folder / ".installed"
    if not stamp.exists() or stamp.stat().st_mtime < lock.stat().st_mtime:
        print(f"installing {lock.name}", flush=True)
        venv.create(folder, with_pip=True)
        pip = [str(interpreter), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        # The lock has all packages; pip alone does not recognize this for packages that require an extra.
        command = [*pip, "--no-deps", "--require-hashes", "-r", str(lock)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Missing(f"{lock.name} could not be installed: {_last_line(done.stderr)}")
        stamp.touch()
    command = [str(interpreter), "-c", f"import {module}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Missing(f"{module} cannot be imported: {_last_line(done.stderr)}")
    return str(interpreter)


def _last_line(said: str) -> str:
    return said.strip().rpartition("\n")[2]


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    """A temporary folder."""
    with tempfile.TemporaryDirectory(prefix="busway-bench-") as name:
        yield Path(name)


@contextlib.contextmanager
def running(
    command: Sequence[str], ready: str | None = None, cwd: Path = ROOT, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process, from the first response of the URL `ready` with a status below 500 to the end of the block.

    Raises:
        Missing: it ended or did not become ready; with its last output.
    """
    with tempfile.TemporaryFile() as words:
        process = subprocess.Popen(
            command, cwd=cwd, env=os.environ | (env or {}), stdout=words, stderr=words, start_new_session=True
        )
        try:
            end = time.monotonic() + PATIENCE
            while ready is not None and not answers(ready):
                if process.poll() is not None or time.monotonic() > end:
                    words.seek(0)
                    last = words.read()[-2000:].decode(errors="replace")
                    raise Missing(f"{' '.join(command[:4])} did not start: {last}")
                time.sleep(0.02)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def answers(url: str) -> bool:
    """Return whether an address responds with a status below 500."""
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return int(answer.status) < 500
    except urllib.error.HTTPError as problem:
        return problem.code < 500
    except OSError:
        return False


class Busway:
    """A gateway with its own handlers and database."""

    def __init__(self, url: str, process: subprocess.Popen[bytes], place: Path) -> None:
        self.url, self.process, self.place = url, process, place


@contextlib.contextmanager
def busway(
    *options: str, handlers: str = NOOP, place: Path | None = None, variables: dict[str, str] | None = None
) -> Iterator[Busway]:
    """Busway as `busway serve` starts it, synced, in the process pool unless the options change it.

    Args:
        options: for `busway serve`.
        handlers: the source of its handlers.
        place: the folder with its database `bench.db`; a new one if None.
        variables: of its environment.
    """
    with contextlib.ExitStack() as stack:
        place = place or stack.enter_context(folder())
        (place / "handlers").mkdir(exist_ok=True)
        (place / "handlers" / "bench.py").write_text(handlers)
        number = port()
        url = f"http://127.0.0.1:{number}"
        command = [sys.executable, "-m", "busway", "serve", f"--port={number}"]
        database = f"--database-url=sqlite:///{place / 'bench.db'}"
        command += [f"--handlers={place / 'handlers'}", database, *options]
        process = stack.enter_context(running(command, url + "/readyz", env=variables))
        yield Busway(url, process, place)


class Program:
    """A program that measures on request: a line of JSON in, a line of JSON out.

    It prints one line of JSON when it is ready (`{}`, or `{"missing": why}`), then answers each request
    with a `Reading`. It reads requests from stdin until its end.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self._answer()

    def ask(self, **request: float | str) -> Reading:
        """Send a request and wait for its reading."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Reading:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise Missing("it ended; its output is above")
        answer = json.loads(line)
        if "missing" in answer:
            raise Missing(answer["missing"])
        return answer  # type: ignore[no-any-return]


@contextlib.contextmanager
def program(command: Sequence[str], env: dict[str, str] | None = None, cwd: Path = ROOT) -> Iterator[Program]:
    """A `Program`, running until the end of the block.

    Raises:
        Missing: the program reports that it cannot measure.
    """
    pipe, around = subprocess.PIPE, os.environ | (env or {})
    process = subprocess.Popen(command, cwd=cwd, env=around, stdin=pipe, stdout=pipe, text=True)
    try:
        yield Program(process)
    finally:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # the program ended before it read the request
            process.stdin.close()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
