"""The gateway's own end: by signals, once and twice, to one process or to all, as PID 1, and by SIGKILL."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from .house import FINAL, House, Publishing, kill, until

pytestmark = pytest.mark.fault
TWO = pytest.mark.parametrize("own_house", ["process", "thread"], indirect=True)


def left_of(processes: list[psutil.Process]) -> list[psutil.Process]:
    """Return who lives on; the dead may have to wait for the system's init to bury them."""
    end = time.monotonic() + 10  # what is killed needs a processor once more
    alive = processes
    while alive and time.monotonic() < end:
        alive = [process for process in alive if is_alive(process)]
        time.sleep(0.01)
    return alive


def is_alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


@pytest.mark.long
@TWO
def test_ctrl_c_then_two_signals_then_sigkill_lose_nothing_and_leave_nobody(
    own_house: House, tmp_path: Path
) -> None:
    house, file = own_house, tmp_path / "file"
    publishing = Publishing(house, "faulty.remembers", str(file))

    # Ctrl-C goes to the whole group, and drains
    house.start()
    publishing.resume()
    house.run("leaves_children")
    sign = tmp_path / "sign"
    run = house.begin("waits_for", str(sign))
    family = house.family()
    group = os.getpgid(house.pid)
    assert group == house.pid, "it leads a group of its own here, as a shell would have it"
    os.killpg(group, signal.SIGINT)
    until(lambda: house.get("/readyz").status_code == 503, "the drain")
    sign.touch()
    assert house.wait() == 0
    publishing.pause()
    assert not left_of(family), "children outlived the drain"

    house.start()
    detail = house.end(run)
    assert (detail["state"], detail["attempt"]) == ("succeeded", 1), "it ran when the Ctrl-C came"

    # a second signal ends at once
    publishing.resume()
    sign = tmp_path / "another"
    run = house.begin("waits_for", str(sign))
    family = house.family()
    house.terminate()
    until(lambda: house.get("/readyz").status_code == 503, "the drain")
    house.terminate()
    assert house.wait() == 1
    publishing.pause()
    assert not left_of(family), "children outlived the second signal"

    # SIGKILL
    house.start()
    sign.touch()
    detail = house.end(run)
    assert [a["outcome"] for a in detail["attempts"]] == ["lost", "succeeded"]
    publishing.resume()
    left = house.run("leaves_children")["id"]
    _, detached, _ = house.results_of(left)[-1]["data"]
    for handler in ("spins_in_threads", "never_ends"):
        house.begin(handler)
    family = house.family()
    house.kill()
    publishing.pause()
    alive = [process for process in left_of(family) if process.pid != detached]
    assert not alive, f"orphans: {alive}"
    kill(detached)  # a process in a session of its own is beyond a gateway that has no time to end it

    # nothing was lost
    house.start()
    for run in house.runs():  # one look: a run that starts between two of them is in neither
        if run["handler"] != "remembers" and run["state"] not in FINAL:
            house.ok("POST", f"/v1/runs/{run['id']}/cancel")
    publishing.check()
    assert house.stop() == 0


@pytest.mark.long
@pytest.mark.parametrize("stuck", ["spins_in_c_for_long", "swallows_for_long"])
@TWO
def test_a_stuck_handler_does_not_outlive_a_killed_gateway(own_house: House, stuck: str) -> None:
    own_house.start()
    own_house.begin(stuck)
    family = own_house.family()
    kill(own_house.pid)
    own_house.wait()
    assert not left_of(family)


@pytest.mark.long
def test_as_pid_1_it_buries_whoever_is_left_to_it(own_house: House, tmp_path: Path) -> None:
    house = own_house
    # Without root a user namespace lets one be PID 1 too.
    more = [] if os.geteuid() == 0 else ["--map-root-user"]
    house.prefix = ["unshare", *more, "--pid", "--fork", "--kill-child", "--mount-proc"]
    house.start()
    inner = psutil.Process(house.pid).children()[0]
    status = Path(f"/proc/{inner.pid}/status").read_text()
    assert next(line for line in status.splitlines() if line.startswith("NSpid:")).split()[-1] == "1"
    for _ in range(3):
        assert house.run("daemonizes")["state"] == "succeeded"
        assert house.run("exits", 1)["error"]["message"] == "exited with status 1"
    zygote = house.zygote()
    in_here = {pid_inside(child): child for child in inner.children(recursive=True)}
    in_here[zygote].kill()
    until(lambda: house.zygote() != zygote, "another zygote")
    assert house.run("daemonizes")["state"] == "succeeded"
    until(lambda: not zombies(inner), "the burial of all")
    sign = tmp_path / "sign"
    run = house.begin("waits_for", str(sign))
    inner.send_signal(signal.SIGTERM)
    until(lambda: house.get("/readyz").status_code == 503, "the drain")
    sign.touch()
    assert house.wait() == 0
    house.prefix = []
    house.start()
    assert house.end(run)["attempt"] == 1
    assert house.stop() == 0


def pid_inside(process: psutil.Process) -> int:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("NSpid:")).split()[-1])


def zombies(process: psutil.Process) -> list[psutil.Process]:
    found = []
    for child in process.children(recursive=True):
        try:
            if child.status() == psutil.STATUS_ZOMBIE:
                found.append(child)
        except psutil.NoSuchProcess:
            continue
    return found
