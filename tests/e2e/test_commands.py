"""Commands that show and change runs and handlers, for people, for terminals and for programs."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import forked

from .conftest import Serve
from .service import PATIENCE, Service, clean_environment, until

LONG = "a_handler_with_such_a_long_name_that_no_table_of_80_columns_fits"[:60]
CODE = f"""
import time
from busway import Fail, handler

@handler("greet")
def hello(event): return ["hello", event.data]

@handler("odd.*", max_attempts=1)
def breaks(event, ctx):
    print("about to break")
    ctx.log.warning("an odd number: %s", event.data)
    raise ValueError("the number is odd, and this message is long enough to take more than one line")

@handler("later", backoff={{"initial": 3000, "factor": 1, "max": 3000, "jitter": 0}})
def {LONG}(event): raise OSError("later")

@handler("hang")
def hang(event): time.sleep(600)
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("commands"), workers=2)
    service.write("all.py", CODE)
    yield service.start()
    service.close()


@pytest.fixture
def busway(service: Service) -> Any:
    def run(*words: str, status: int = 0, **more: Any) -> subprocess.CompletedProcess[str]:
        done = forked.run(
            [sys.executable, "-m", "busway", *words],
            capture_output=True, text=True, timeout=PATIENCE, check=False,
            **{"stdin": subprocess.DEVNULL, **more},
            env={**clean_environment(), "BUSWAY_URL": service.url},
        )  # fmt: skip
        assert done.returncode == status, (words, done.stdout, done.stderr)
        return done

    return run


def terminal(
    service: Service, *words: str, columns: int = 80, **variables: str
) -> tuple[int, subprocess.Popen[bytes]]:
    """Run a command on a terminal of so many columns; return our side of it, too."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    environment = {**clean_environment(), "BUSWAY_URL": service.url, "TERM": "xterm", **variables}
    environment.pop("COLUMNS", None)
    running = forked.Popen(
        [sys.executable, "-m", "busway", *words], stdin=theirs, stdout=theirs, stderr=theirs, env=environment
    )
    os.close(theirs)
    return ours, running


def on_terminal(service: Service, *words: str, columns: int = 80, **variables: str) -> str:
    """What a command writes to a terminal of so many columns."""
    ours, running = terminal(service, *words, columns=columns, **variables)
    with running:
        written = b""
        while True:
            try:
                chunk = os.read(ours, 1 << 16)
            except OSError:  # Linux: the other side has closed
                break
            written += chunk
    os.close(ours)
    return written.decode().replace("\r\n", "\n")


def plain(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def run_of(service: Service, type_: str, data: Any, state: str) -> int:
    """Publish an event, wait until its run has this state, and return the run's number."""
    seq = service.publish(type_, data)["seq"]

    def reached() -> Any:
        (run,) = service.ok("GET", f"/v1/events/{seq}")["runs"]
        return run["id"] if run["state"] == state else None

    found: int = until(reached, f"a run that is {state}")
    return found


def test_runs_are_listed_with_the_dead_first(service: Service, busway: Any) -> None:
    dead = run_of(service, "odd.one", 1, "dead")
    fine = run_of(service, "greet", "you", "succeeded")
    head, *rows = busway("runs", "-n", "1000").stdout.splitlines()
    assert head.split() == ["RUN", "STATE", "HANDLER", "EVENT", "ATTEMPT", "AGE", "NOTE"]
    states = [row.split()[1] for row in rows]
    assert states == sorted(states, key=lambda state: state != "dead")
    assert any(row.split()[0] == str(dead) and "ValueError: the number is odd" in row for row in rows)
    listed = [json.loads(line) for line in busway("runs", "--json", "-n", "1000").stdout.splitlines()]
    assert [run["id"] for run in listed] == [int(row.split()[0]) for row in rows]
    assert {dead, fine} <= {run["id"] for run in listed}


def test_runs_are_selected(service: Service, busway: Any) -> None:
    dead = run_of(service, "odd.two", 2, "dead")
    seq = service.ok("GET", f"/v1/runs/{dead}")["event"]
    for _ in range(2):
        run_of(service, "greet", "you", "succeeded")

    def ids(*words: str) -> list[int]:
        return [json.loads(line)["id"] for line in busway("runs", "--json", *words).stdout.splitlines()]

    assert ids("--event", str(seq)) == [dead]
    assert ids("--event", str(seq), "--state", "succeeded") == []
    assert dead in ids("-H", "breaks", "--state=dead", "--limit=1000")
    assert len(ids("-H", "hello", "-n", "2")) == 2
    both = busway("runs", "-s", "succeeded", "-s", "dead", "-n", "1000", "--json").stdout.splitlines()
    assert {json.loads(line)["state"] for line in both} == {"succeeded", "dead"}
    assert busway("runs", "-H", "nobody").stderr == "no runs\n"
    assert "'dead'" in busway("runs", "--state", "broken", status=2).stderr


def test_a_run_is_shown_with_the_log_and_stack_of_its_attempts(service: Service, busway: Any) -> None:
    dead = run_of(service, "odd.three", 3, "dead")
    shown = busway("run", str(dead)).stdout
    for words in (
        f"run {dead}  dead", "breaks", "odd.three", "1 of 1", "attempt 1  failed", "about to break",
        "an odd number: 3", "Traceback (most recent call last)", "raise ValueError(", "all.py", "process",
    ):  # fmt: skip
        assert words in shown
    assert "\x1b" not in shown
    answer = json.loads(busway("run", str(dead), "--json").stdout)
    assert answer == service.ok("GET", f"/v1/runs/{dead}")
    assert f"busway retry {dead}" in busway("run", str(dead)).stderr
    waiting = run_of(service, "later", None, "retryable")
    assert re.search(r"next +retries in (49|50)m", busway("run", str(waiting)).stdout)
    busway("cancel", str(waiting))
    assert "busway runs" in busway("run", "999999999", status=1).stderr


def test_runs_are_retried(service: Service, busway: Any) -> None:
    dead = [run_of(service, "odd.retry", n, "dead") for n in range(2)]
    done = busway("retry", str(dead[0]), "999999999", str(dead[1]), status=1)
    assert [line.split()[1] for line in done.stdout.splitlines()] == list(map(str, dead))
    assert done.stderr.count("\n") == 1
    assert "999999999" in done.stderr

    def attempts() -> list[int]:
        return [service.ok("GET", f"/v1/runs/{id_}")["attempt"] for id_ in dead]

    until(lambda: attempts() == [2, 2], "the second attempts")
    until(lambda: service.unfinished() == 0, "their ends")
    count = len(service.runs(state="dead", handler="breaks"))
    assert json.loads(busway("retry", "--dead", "-H", "breaks", "--json").stdout) == {"retried": count}
    until(lambda: attempts() == [3, 3], "the third attempts")
    until(lambda: service.unfinished() == 0, "their ends")
    assert busway("retry", "--dead", "--handler=hello").stdout.endswith(": 0\n")
    assert "busway handlers" in busway("retry", "--dead", "--handler=nobody", status=1).stderr
    for wrong in ((), ("1", "--dead"), ("1", "-H", "hello")):
        assert busway("retry", *wrong, status=2).stdout == ""


@pytest.mark.long
def test_runs_and_events_are_cancelled(service: Service, busway: Any) -> None:
    first, second = (run_of(service, "hang", None, "running") for _ in range(2))
    assert busway("cancel", str(first)).stdout == f"run {first} of hang is cancelled\n"
    assert "only unfinished runs" in busway("cancel", str(first), status=1).stderr
    seq = service.ok("GET", f"/v1/runs/{second}")["event"]
    assert (
        busway("cancel", "--event", str(seq)).stdout == f"event {seq} is cancelled, its runs: 1 cancelled\n"
    )
    assert service.ok("GET", f"/v1/runs/{second}")["state"] == "cancelled"
    assert busway("cancel", "-e", "999999999", status=1).stderr.endswith("deleted after --retention\n")
    assert busway("cancel", status=2).stdout == ""


def test_handlers_are_paused_and_resumed(service: Service, busway: Any) -> None:
    assert busway("pause", "hello").stdout == "handler hello is paused: its runs wait\n"
    try:
        assert "paused already" in busway("pause", "hello", status=1).stderr
        assert re.search(r"^hello .*paused", busway("handlers").stdout, re.MULTILINE)
    finally:
        assert json.loads(busway("resume", "hello", "--json").stdout)["paused"] is False
    for nobody in ("nobody", "../runs", "a/b"):
        assert "`busway handlers`" in busway("resume", nobody, status=1).stderr


def test_the_status_is_shown(service: Service, busway: Any) -> None:
    shown = busway("status").stdout
    url, state = shown.splitlines()[0].split()[-2:]
    assert url in service.urls
    assert state == "ready"
    for words in ("process pool", "workers: 2 of 2 ready", service.database_shown, f"{LONG} "):
        assert words in shown
    assert json.loads(busway("status", "--json").stdout)["state"] == "ready"


def test_files_that_do_not_import_are_named_with_the_handlers(make_service: Serve) -> None:
    service = make_service(workers=1)
    service.write("good.py", "from busway import handler\n@handler('greet')\ndef hello(event): ...\n")
    service.write("broken.py", "import nothing_that_exists\n")
    service.start()
    where = f"--url={service.url}"
    done = forked.run(
        [sys.executable, "-m", "busway", "handlers", where],
        capture_output=True, text=True, timeout=PATIENCE, check=True, env=clean_environment(),
    )  # fmt: skip
    table, _, rest = done.stdout.partition("\n\n")
    assert len(table.splitlines()) == 2
    assert rest.startswith("broken.py is not loaded:\n")
    assert "No module named 'nothing_that_exists'" in rest


@pytest.mark.parametrize("words", [("runs", "-n", "1000"), ("handlers",), ("status",)])
def test_on_a_terminal_lines_fit_and_no_name_is_cut(service: Service, words: tuple[str, ...]) -> None:
    run_of(service, "odd.wide", 1, "dead")
    busy = run_of(service, "later", None, "retryable")
    shown = on_terminal(service, *words)
    service.post(f"/v1/runs/{busy}/cancel")
    lines = [line for line in plain(shown).splitlines() if service.database_shown not in line]
    assert max(map(len, lines)) <= 80
    assert "\x1b[" in shown
    assert LONG in plain(shown)
    assert "\x1b" not in on_terminal(service, *words, NO_COLOR="1")


def test_a_table_on_a_wide_terminal_is_a_table(service: Service) -> None:
    shown = plain(on_terminal(service, "handlers", columns=250)).splitlines()
    assert shown[0].split()[0] == "HANDLER"
    assert len(shown) == 5


def test_an_upload_shows_rate_and_progress(service: Service, busway: Any, tmp_path: Path) -> None:
    file = tmp_path / "events.ndjson"
    file.write_text('{"type": "nobody.takes"}\n' * 5000)
    written = plain(on_terminal(service, "publish", "--file", str(file), columns=100))
    assert re.search(r"100% 5,000 lines, [0-9,]+/s", written)
    assert '"accepted": 5000' in written
    assert busway("publish", "--file", str(file)).stderr == ""
