"""Workers, hosts and zygotes that die in every way they can; only the attempt at fault is charged."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from busway.domain.run import MAX_LOSSES

from .house import House, appear, at_rest, gone, kill, stopped, until

pytestmark = pytest.mark.fault
EIGHT = 8 << 20


def the_last(run: dict[str, Any]) -> dict[str, Any]:
    """The attempt that was charged. In a shared host those before it may be lost, as its neighbours' are."""
    *before, last = run["attempts"]
    assert {attempt["outcome"] for attempt in before} <= {"lost"}
    found: dict[str, Any] = last
    return found


@pytest.mark.long
@pytest.mark.parametrize(
    ("handler", "data", "cause", "printed"),
    [
        ("exits", 0, "exited with status 0", "about to exit\nWARNING exits: with 0\n"),
        ("exits", 1, "exited with status 1", "about to exit\nWARNING exits: with 1\n"),
        ("segfaults", None, "killed by SIGSEGV", "about to read what is not there\n"),
        ("kills_itself", signal.SIGKILL, "killed by SIGKILL", "about to be killed\n"),
        ("kills_itself", signal.SIGXCPU, "killed by SIGXCPU", "about to be killed\n"),
    ],
)
def test_a_handler_that_ends_its_process_fails_and_tells_how_it_ended(
    house: House, handler: str, data: Any, cause: str, printed: str
) -> None:
    run = house.run(handler, data)
    assert (run["state"], run["error"]["type"]) == ("dead", "WorkerDied")
    assert run["error"]["message"].startswith(cause)
    last = the_last(run)
    assert last["outcome"] == "failed"
    assert last["worker"] not in house.idle()
    assert last["log"] == printed, "the last lines that it printed"
    result = house.results_of(run["id"])[-1]
    assert (result["kind"], result["error"]["type"]) == ("dead", "WorkerDied")


def test_where_a_crash_in_c_was_stands_in_the_attempt(house: House) -> None:
    # Python 3.15 writes no stacks when another thread is just starting, as bystanders' threads do.
    trace = next(filter(None, (the_last(house.run("segfaults"))["error"]["traceback"] for _ in range(5))))
    assert "in follow" in trace
    assert "in segfaults" in trace


def test_sys_exit_fails_the_attempt_and_nothing_else(house: House) -> None:
    run = house.run("exits_politely", 3)
    assert (run["error"]["type"], run["error"]["message"]) == ("SystemExit", "3")
    assert run["attempts"][0]["outcome"] == "failed"


def test_an_idle_worker_that_is_killed_is_replaced(house: House) -> None:
    victim = until(house.idle, "workers at rest")[0]
    kill(victim)
    until(lambda: gone(victim) and house.idle(), "another worker")
    assert house.run("fine", 1)["state"] == "succeeded"


def test_the_last_workers_that_are_killed_are_replaced(house: House) -> None:
    victims = until(lambda: [*house.idle("process"), *house.idle("thread")], "workers at rest")
    kill(*victims)
    assert house.run("fine", 1)["state"] == "succeeded"
    until(lambda: all(map(gone, victims)) and house.idle(), "other workers")


def test_a_zygote_that_is_killed_is_replaced_and_what_runs_goes_on(house: House, tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    run = house.begin("waits_for", str(sign))
    worker = house.ok("GET", f"/v1/runs/{run}")["attempts"][0]["worker"]
    zygote = house.zygote()
    kill(zygote)
    until(lambda: gone(zygote) and house.zygote() != zygote, "another zygote")
    sign.touch()
    ended = house.end(run)
    assert ended["state"] == "succeeded"
    assert the_last(ended)["worker"] == worker
    assert house.run("exits", 3)["error"]["message"] == "exited with status 3"


def test_strays_of_a_dead_zygote_are_buried(house: House) -> None:
    run = house.run("leaves_children")
    in_group, detached, worker = house.results_of(run["id"])[-1]["data"]
    kill(house.zygote())
    house.zygote()
    kill(worker)
    until(lambda: gone(worker) and gone(in_group), "the worker's group to be buried")
    kill(detached)
    until(lambda: gone(detached), "the detached one to be buried")


def test_what_an_attempt_leaves_behind_goes_with_its_worker_and_is_buried(house: House) -> None:
    run = house.run("leaves_children")
    assert run["state"] == "succeeded"
    in_group, detached, worker = house.results_of(run["id"])[-1]["data"]
    kill(worker)
    until(lambda: gone(in_group), "the child in the worker's group")
    assert not gone(detached), "it has left the group: it may live as long as the gateway"
    kill(detached)
    until(lambda: gone(detached), "its burial")


def test_killed_in_the_middle_of_writing_a_large_result(house: House, tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    run = house.begin("waits_for", str(sign))
    worker = house.ok("GET", f"/v1/runs/{run}")["attempts"][0]["worker"]
    with stopped(house.pid):
        appear(sign, str(EIGHT))
        until(sign.with_suffix(".seen").exists, "the handler to return")
        until(at_rest(worker), "its socket to be full")
        kill(worker)
    ended = house.end(run)
    assert (ended["state"], ended["attempts"][0]["outcome"]) == ("succeeded", "lost")
    assert house.finals_of(run) == ["succeeded"]
    assert len(house.results_of(run)[-1]["data"]) == EIGHT


def test_killed_in_the_middle_of_reading_a_large_event(house: House) -> None:
    workers = until(house.idle, "workers at rest")
    with stopped(*workers):
        seq = house.publish("faulty.measures", "x" * EIGHT)["seq"]
        until(lambda: sum(w["running"] for w in house.workers()), "the event to be on its way")
        kill(*workers)
    run = house.run_of(seq)
    assert (run["state"], run["attempt"]) == ("succeeded", 1), "it never started, so nothing is counted"
    assert house.results_of(run["id"])[-1]["data"] == EIGHT


def test_killed_between_sending_a_result_and_its_commit(house: House, tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    run = house.begin("waits_for", str(sign))
    worker = house.ok("GET", f"/v1/runs/{run}")["attempts"][0]["worker"]
    with stopped(house.committer().pid):
        appear(sign, "3")
        until(sign.with_suffix(".seen").exists, "the handler to return")
        until(lambda: house.status()["queues"]["publishes_and_outcomes"], "its outcome to wait")
        kill(worker)
        until(lambda: gone(worker), "its burial")
    ended = house.end(run)
    assert (ended["state"], ended["attempt"]) == ("succeeded", 1), "what was sent counts"
    assert house.finals_of(run) == ["succeeded"]


def test_a_poison_event_ends_as_dead_without_a_crash_loop(house: House) -> None:
    restarts = house.status()["workers"]["zygote"]["restarts"]
    run = house.run("poison", "poison")
    assert (run["state"], run["error"]["message"]) == ("dead", "exited with status 7")
    charged = [a for a in run["attempts"] if a["outcome"] == "failed"]
    assert len(charged) == 3
    assert len(run["attempts"]) <= 3 + 10
    assert house.finals_of(run["id"]) == ["dead"]
    status = house.status()["workers"]
    assert not any(pool["delayed"] for pool in status["pools"].values()), "deaths at work are no crash loop"
    assert status["zygote"]["restarts"] == restarts
    assert house.run("poison", "milk")["state"] == "succeeded"


@pytest.mark.parametrize("own_house", ["process", "thread"], indirect=True)
def test_a_run_that_hides_that_it_has_started_is_dead_after_some_attempts(own_house: House) -> None:
    """Its handler clears the memory that it shares with the gateway, and ends its worker at once."""
    house = own_house
    house.start()
    run = house.run("hides_its_start_and_exits")
    assert run["state"] == "dead"
    assert len(run["attempts"]) <= MAX_LOSSES
    assert house.run("fine", 1)["state"] == "succeeded"
