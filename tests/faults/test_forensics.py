"""What `GET /v1/runs/{id}` tells of each end suffices to know what to mend, without a debugger."""

from __future__ import annotations

import signal
import socket
from typing import Any

import pytest

from .house import House

pytestmark = pytest.mark.fault


@pytest.mark.long
@pytest.mark.parametrize(
    ("handler", "data", "type_", "message", "frames", "printed"),
    [
        ("fails_deep", None, "KeyError", "'colour'", ["in fails_deep", "in paint"], "painting\n"),
        ("exits", 3, "WorkerDied", "exited with status 3", [], "about to exit\nWARNING exits: with 3\n"),
        (
            "segfaults",
            None,
            "WorkerDied",
            "killed by SIGSEGV",
            ["in segfaults", "in follow"],
            "about to read",
        ),
        ("kills_itself", signal.SIGBUS, "WorkerDied", "killed by SIGBUS", ["in kills_itself"], "about to be"),
        ("stands_still", None, "Timeout", "ran longer than 0.3 s", ["in standing"], "standing still\n"),
        ("spins_in_c", None, "Timeout", "ran longer than 0.3 s", ["in spins_in_c"], "matching\n"),
        ("waits_in_c", None, "Timeout", "ran longer than 0.3 s", ["in waits_in_c"], "waiting\n"),
    ],
)
def test_how_an_attempt_ended_stands_in_its_run(
    house: House, handler: str, data: Any, type_: str, message: str, frames: list[str], printed: str
) -> None:
    run = house.run(handler, data)
    attempt = run["attempts"][-1]
    assert attempt["outcome"] == "failed"
    error = attempt["error"]
    assert error["type"] == type_
    assert error["message"].startswith(message)
    for frame in frames:
        assert frame in error["traceback"], error["traceback"]
    assert printed in attempt["log"]
    assert attempt["pool"] == house.pool
    assert attempt["worker"] > 1
    assert attempt["node"] == socket.gethostname()
    assert attempt["started_at"] < attempt["finished_at"]
    assert run["error"] == error
    final = house.results_of(run["id"])[-1]
    assert (final["kind"], final["error"]) == ("dead", {"type": type_, "message": error["message"]})


def test_of_a_flood_the_last_lines_are_kept_and_that_there_was_more_is_said(house: House) -> None:
    log = house.run("floods_and_dies")["attempts"][-1]["log"]
    said, *lines = log.splitlines()
    assert said == "… earlier output was lost with the worker"
    assert len(lines) > 100
    assert lines == [f"line {n}" for n in range(100_000 - len(lines), 100_000)]


def test_each_attempt_of_a_run_tells_its_own_end(house: House) -> None:
    run = house.run("fails_often")
    assert run["state"] == "succeeded"
    told = [(a["attempt"], a["outcome"], a["error"] and a["error"]["message"]) for a in run["attempts"]]
    assert told == [(1, "failed", "attempt 1"), (2, "failed", "attempt 2"), (3, "succeeded", None)]
