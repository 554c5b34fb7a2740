"""Signals: they drain from the first line of the program on, whatever the parent blocked or ignored."""

from __future__ import annotations

import contextlib
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.marks import few

from .conftest import Serve
from .service import PATIENCE, Service, clean_environment, until
from .test_faults import seed

pytestmark = [pytest.mark.fault, pytest.mark.one_node("signals of one process")]

HANDLERS = """
import signal, subprocess, sys, time
from pathlib import Path
from busway import handler

@handler("waits")
def waits(event):
    Path(event.data["began"]).touch()
    while not Path(event.data["end"]).exists():
        time.sleep(0.01)

@handler("inherits")
def inherits(event):
    return {
        "status": subprocess.run(["sh", "-c", "exit 3"]).returncode,
        "here": masks("self"),
        "child": subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True).stdout,
    }

def masks(who):
    return Path(f"/proc/{who}/status").read_text()
"""
LIBCS = {32, 33}  # the C library keeps these for itself: they stay as the parent left them
STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def mask(status: str, name: str) -> set[int]:
    """The signals of a line such as `SigIgn` in /proc/PID/status."""
    (line,) = [line for line in status.splitlines() if line.startswith(f"{name}:")]
    bits = int(line.split()[1], 16)
    return {number for number in range(1, 65) if bits >> (number - 1) & 1}


def launch(service: Service, before: str = "") -> subprocess.Popen[str]:
    """Start a gateway without waiting for it. `before`: Python code that its parent runs first."""
    code = f"import os, signal, sys\n{before}\nos.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-c", code, *service.command()] if before else service.command()
    with service.log.open("ab") as log:
        service.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, env=clean_environment()
        )
    return service.process


def holds(pid: int) -> bool:
    """Whether the first lines of the program were run."""
    status = Path(f"/proc/{pid}/status").read_text()
    return set(STOPPING) <= mask(status, "SigCgt")


@pytest.mark.parametrize("everybody", few([False, True], False))
@pytest.mark.long
def test_a_signal_at_any_moment_of_the_start_ends_it_with_status_0(
    make_service: Serve, everybody: bool
) -> None:
    chance = random.Random(seed())
    service = make_service(workers=1)
    service.write("all.py", HANDLERS)
    for moment in sorted(chance.uniform(0, 1.2) for _ in range(4)):
        process = launch(service)
        until(lambda: holds(process.pid), "its first lines")  # noqa: B023 - called at once
        time.sleep(moment)
        children = psutil.Process(process.pid).children(recursive=True)
        number = chance.choice(STOPPING)
        for child in children if everybody else ():  # as systemd and container runtimes do
            with contextlib.suppress(psutil.NoSuchProcess):
                child.send_signal(number)
        process.send_signal(number)
        assert service._reap() == 0, (moment, number)
        _, alive = psutil.wait_procs(children, timeout=PATIENCE)
        assert not alive, (moment, number)
        assert "Traceback" not in service.log.read_text(), (moment, number)


@pytest.mark.long
def test_many_signals_at_once_end_it_without_a_traceback(make_service: Serve) -> None:
    chance = random.Random(seed())
    service = make_service(workers=1)
    for moment in sorted(chance.uniform(0, 1.0) for _ in range(3)):
        process = launch(service)
        until(lambda: holds(process.pid), "its first lines")  # noqa: B023 - called at once
        time.sleep(moment)
        while process.poll() is None:
            process.send_signal(chance.choice(STOPPING))
        assert service._reap() in {0, 1}
        assert "Traceback" not in service.log.read_text(), moment


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_drains(make_service: Serve, tmp_path: Path, number: int) -> None:
    service = make_service(workers=1)
    service.write("all.py", HANDLERS)
    service.start()
    began, end = tmp_path / "began", tmp_path / "end"
    seq = service.publish("waits", {"began": str(began), "end": str(end)})["seq"]
    until(began.exists, "the handler")
    assert service.process
    service.process.send_signal(number)
    until(lambda: service.post("/v1/events", {"type": "t"}).status_code == 503, "the drain")
    service.process.send_signal(signal.SIGHUP)  # service managers send it after SIGTERM: no second signal
    end.touch()
    assert service._reap() == 0
    service.start()
    assert service.finished(seq)["runs"][0]["state"] == "succeeded"
    assert service.run_of(seq)["attempt"] == 1


@pytest.mark.long
def test_the_log_says_for_what_a_long_start_or_drain_waits(make_service: Serve, tmp_path: Path) -> None:
    service = make_service(workers=1, drain_timeout=PATIENCE)
    service.write("all.py", HANDLERS)
    waits = "import time\nfrom pathlib import Path\nwhile not Path(NAME).exists(): time.sleep(0.01)\n"
    service.write("slow.py", waits.replace("NAME", repr(str(tmp_path / "imports"))))
    service.process = service.launch()
    service.logged("still starting: waiting for the import of the handlers folder")
    (tmp_path / "imports").touch()
    service.announced()
    began, end = tmp_path / "began", tmp_path / "end"
    service.publish("waits", {"began": str(began), "end": str(end)})
    until(began.exists, "the handler to begin")
    service.terminate()
    service.logged("still draining: 1 attempts run, ")
    end.touch()
    assert service._reap() == 0


def test_a_second_signal_ends_it_at_once(make_service: Serve, tmp_path: Path) -> None:
    service = make_service(workers=1)
    service.write("all.py", HANDLERS)
    service.start()
    began = tmp_path / "began"
    service.publish("waits", {"began": str(began), "end": str(tmp_path / "never")})
    until(began.exists, "the handler")
    service.terminate()
    until(lambda: service.post("/v1/events", {"type": "t"}).status_code == 503, "the drain")
    assert service.stop() == 1


@pytest.mark.long
@pytest.mark.parametrize("pool", ["process", "thread"])
def test_what_the_parent_blocked_or_ignored_does_not_matter(make_service: Serve, pool: str) -> None:
    service = make_service(workers=1, pool=pool)
    service.write("all.py", HANDLERS)
    launch(
        service,
        "for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:\n"
        "    signal.signal(number, signal.SIG_IGN)\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())",
    )
    service.announced()
    run = service.run_of(service.publish("inherits")["seq"])
    (result,) = [item["data"] for item in service.results() if item["run"] == run["id"]]
    assert result["status"] == 3, "a child is waited for"
    parents = {signal.SIGHUP, signal.SIGQUIT, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}
    pythons = {signal.SIGPIPE, signal.SIGXFSZ, 25}
    for status, kept in ((result["here"], parents | pythons), (result["child"], parents)):
        assert mask(status, "SigBlk") == set()
        assert mask(status, "SigIgn") - LIBCS <= kept
    service.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr] # nohup: the terminal may close
    assert service.run_of(service.publish("inherits")["seq"])["state"] == "succeeded"
    assert service.stop() == 0


def namespaces() -> bool:
    """Whether this user may make a PID namespace."""
    command = ("unshare", "--user", "--map-root-user", "--pid", "--fork", "true")
    return (
        shutil.which("unshare") is not None
        and subprocess.run(command, capture_output=True, check=False).returncode == 0
    )


@pytest.mark.long
@pytest.mark.skipif(not namespaces(), reason="needs PID namespaces")
def test_process_1_of_a_container_stops_too(make_service: Serve) -> None:
    chance = random.Random(seed())
    service = make_service(workers=1)
    for moment in (0, chance.uniform(0, 1), None):
        prefix = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
        service.process = subprocess.Popen(
            [*prefix, *service.command()], stdout=subprocess.PIPE, text=True, env=clean_environment()
        )
        unshare = psutil.Process(service.process.pid)
        (first,) = until(unshare.children, "process 1")
        until(
            lambda: holds(first.pid),  # noqa: B023 - called at once
            "its first lines",
        )
        if moment is None:
            service.announced()
        time.sleep(moment or 0)
        first.send_signal(signal.SIGTERM)
        assert service._reap() == 0
