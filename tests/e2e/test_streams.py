"""Standard streams that are closed, full or without a reader: the gateway serves, and ends with status 0."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.marks import few

from .conftest import Serve
from .service import PATIENCE, Service, clean_environment, until

pytestmark = [pytest.mark.fault, pytest.mark.one_database("standard streams of the process")]

HANDLERS = """
import os, sys
from busway import handler

@handler("say")
def say(event):
    print("printed")
    print("printed", file=sys.stderr)
    return event.data

@handler("shout")
def shout(event):
    for _ in range(100):
        os.write(2, b"x" * 4000 + b"\\n")
    return "shouted"
"""
REDIRECTIONS = {
    "no input": "<&-",
    "no output": ">&-",
    "no errors": "2>&-",
    "nothing open": "<&- >&- 2>&-",
    "full output": ">/dev/full",
    "full errors": "2>/dev/full",
    "both full": ">/dev/full 2>&1",
    "only for reading": "1</dev/null 2</dev/null",
    "output without a reader": ">&3",
    "errors without a reader": "2>&3",
    "both without a reader": ">&3 2>&3",
}


@pytest.fixture
def no_reader() -> Iterator[int]:
    """A pipe that nobody reads any more, as descriptor."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


def redirected(command: list[str], redirection: str, writer: int, **more: Any) -> subprocess.Popen[str]:
    """Start a command with a redirection of the shell, in which `>&3` and `2>&3` are the pipe `writer`."""
    piped = {"stdout": ">&3" in redirection.split(), "stderr": "2>&3" in redirection.split()}
    kept = " ".join(word for word in redirection.split() if not word.endswith(">&3"))
    streams = {name: writer for name, wanted in piped.items() if wanted} | more
    shell = ("sh", "-c", f'exec "$@" {kept}', "sh", *command)
    return subprocess.Popen(shell, text=True, env=clean_environment(), **streams)


def until_ready(service: Service) -> None:
    """Wait for a gateway whose announcement cannot be read."""
    service.own_url = f"http://127.0.0.1:{service.options['port']}"

    def ready() -> bool:
        assert service.process
        assert service.process.poll() is None, service.process.returncode
        try:
            return service.get("/readyz").status_code == 200
        except httpx.TransportError:
            return False

    until(ready, "readiness")


@pytest.mark.long
@pytest.mark.parametrize("name", few(REDIRECTIONS, "nothing open", "both full", "both without a reader"))
def test_the_gateway_serves_without_its_streams(make_service: Serve, no_reader: int, name: str) -> None:
    service = make_service(workers=1)
    service.write("all.py", HANDLERS)
    service.process = redirected(service.command(), REDIRECTIONS[name], no_reader)
    until_ready(service)
    run = service.run_of(service.publish("say", 1)["seq"])
    assert (run["state"], run["attempts"][0]["log"]) == ("succeeded", "printed\nprinted\n")
    service.finished(service.publish("shout")["seq"])
    assert service.stop() == 0


def test_a_reader_of_one_line_leaves_a_gateway_that_serves(make_service: Serve) -> None:
    service = make_service(workers=1).start()
    assert service.process
    assert service.process.stdout
    service.process.stdout.close()
    assert service.get("/readyz").status_code == 200
    assert service.stop() == 0


@pytest.mark.long
def test_bad_settings_have_their_status_without_streams(make_service: Serve, no_reader: int) -> None:
    service = make_service(pool="fiber")
    for redirection in ("2>/dev/full", "2>&-", "2>&3", ">&- 2>&-"):
        assert redirected(service.command(), redirection, no_reader).wait(PATIENCE) == 2


class Unread:
    """Standard error as a small pipe that nobody reads until `lines`."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()
        fcntl.fcntl(self.writer, fcntl.F_SETPIPE_SZ, 4096)

    def start(self, service: Service) -> None:
        """Start a gateway and fill the pipe and its queue."""
        service.write("all.py", HANDLERS)
        service.process = subprocess.Popen(
            service.command(),
            stdout=subprocess.DEVNULL,
            stderr=self.writer,
            text=True,
            env=clean_environment(),
        )
        os.close(self.writer)
        until_ready(service)
        while not dropped(service):
            service.finished(service.publish("shout")["seq"])
            time.sleep(0.2)  # only so many lines a second are logged

    def lines(self) -> Iterator[dict[str, Any]]:
        """Read lines of the log."""
        with os.fdopen(self.reader, encoding="utf-8") as stream:
            yield from map(json.loads, stream)


def dropped(service: Service) -> float:
    (line,) = [
        line for line in service.get("/metrics").text.splitlines()
        if line.startswith("busway_log_lines_dropped_total ")
    ]  # fmt: skip
    return float(line.split()[1])


@pytest.mark.long
@pytest.mark.parametrize("pool", ["process", "thread"])
def test_errors_that_nobody_reads_stop_nothing(make_service: Serve, pool: str) -> None:
    service, errors = make_service(workers=1, pool=pool), Unread()
    errors.start(service)
    assert service.get("/healthz").status_code == 200
    assert service.run_of(service.publish("say", 1)["seq"])["state"] == "succeeded"
    assert service.stop() == 0
    os.close(errors.reader)


@pytest.mark.long
def test_the_log_says_how_many_lines_were_dropped(make_service: Serve) -> None:
    service, errors = make_service(workers=1), Unread()
    errors.start(service)
    lost = dropped(service)
    lines = errors.lines()
    while not (line := next(lines))["event"].endswith("could not be written"):
        pass
    assert int(line["event"].split()[0]) >= lost
    assert service.stop() == 0
    assert any(line["event"].startswith("draining") for line in lines)


COMMANDS = {
    "publish": ("publish", "say", "--data=1", "--url={url}"),
    "handlers": ("handlers", "--url={url}"),
    "tail": ("tail", "--after=earliest", "--url={url}"),
    "tail --json": ("tail", "--after=earliest", "--json", "--url={url}"),
    "keys": ("keys", "create", "x", "--create", "--database-url=sqlite:///{folder}/keys.db"),
    "openapi": ("openapi", "{folder}/documents"),
    "help": ("--help",),
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("streams"), workers=1)
    service.write("all.py", HANDLERS)
    service.start()
    service.finished(service.publish("say", 1)["seq"])
    yield service
    service.close()


@pytest.mark.parametrize(
    ("name", "redirection", "status"),
    few(
        [
            *((name, ">&3", 0) for name in COMMANDS),
            *((name, ">/dev/full", 1) for name in COMMANDS),
            ("keys", ">&-", 0),
            ("keys", ">/dev/full 2>/dev/full", 1),
            ("publish", "<&- >&- 2>&-", 0),
        ],
        ("tail", ">&3", 0),
        ("publish", ">/dev/full", 1),
        ("publish", "<&- >&- 2>&-", 0),
    ),
)
def test_a_command_whose_output_cannot_be_written_says_so_in_one_line(
    running: Service, tmp_path: Path, no_reader: int, name: str, redirection: str, status: int
) -> None:
    words = [word.format(url=running.url, folder=tmp_path) for word in COMMANDS[name]]
    command = [sys.executable, "-m", "busway", *words]
    with redirected(command, redirection, no_reader, stderr=subprocess.PIPE) as process:
        assert process.stderr
        said = process.stderr.read()
        assert process.wait(PATIENCE) == status, said
    assert "Traceback" not in said
    assert said.count("cannot write") == (1 if status and "2>" not in redirection else 0), said
