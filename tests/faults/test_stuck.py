"""Handlers that do not end when they should, and those that take all the time there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from .house import House, until

pytestmark = pytest.mark.fault

WARM = 1000  # attempts after which a quick handler is made by the thread that reads


@pytest.mark.parametrize("handler", ["spins_in_c", "swallows", "swallows_async", "stands_still"])
def test_an_attempt_beyond_its_time_fails_whatever_it_does(house: House, handler: str) -> None:
    run = house.run(handler)
    assert run["state"] == "dead"
    assert (run["error"]["type"], run["error"]["message"]) == ("Timeout", "ran longer than 0.3 s")
    last = run["attempts"][-1]
    assert {attempt["outcome"] for attempt in run["attempts"][:-1]} <= {"lost"}
    assert last["outcome"] == "failed"
    assert last["wall_time"] > 0.29
    until(lambda: last["worker"] not in [worker["pid"] for worker in house.workers()], "its worker's end")


def test_a_timeout_tells_where_it_stood_and_what_it_printed(house: House) -> None:
    last = house.run("stands_still")["attempts"][-1]
    assert "in standing" in last["error"]["traceback"]
    assert "in stands_still" in last["error"]["traceback"]
    assert last["log"] == "standing still\n"


def test_the_api_answers_while_threads_spin(house: House) -> None:
    runs = [house.begin("spins_in_threads") for _ in range(2)]
    for _ in range(20):
        assert house.get("/healthz").status_code == 200
    for run in runs:
        assert house.ok("POST", f"/v1/runs/{run}/cancel")["state"] == "cancelled", (
            "they ended before the API answered"
        )
    until(house.idle, "the threads to end")


def test_a_long_attempt_delays_no_other_handler(house: House, tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    long = house.begin("waits_for", str(sign))
    events = [{"type": "faulty.fine"}] * 200
    house.all_finished(house.ok("POST", "/v1/events", events)["items"])
    until(lambda: house.ok("GET", f"/v1/runs/{long}")["state"] == "running", "it to be marked as running")
    sign.touch()
    assert house.end(long)["state"] == "succeeded"


def test_a_long_attempt_delays_no_short_one_of_its_own_quick_handler(house: House, tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    house.all_finished(house.ok("POST", "/v1/events", [{"type": "faulty.bimodal"}] * WARM)["items"])
    events = [{"type": "faulty.bimodal", "data": str(sign) if n == 20 else None} for n in range(200)]
    receipts = house.ok("POST", "/v1/events", events)["items"]
    long = house.ok("GET", f"/v1/events/{receipts[20]['seq']}")["runs"][0]["id"]
    house.all_finished(receipts[:20] + receipts[21:])
    until(lambda: house.ok("GET", f"/v1/runs/{long}")["state"] == "running", "it to be marked as running")
    sign.touch()
    assert house.end(long)["state"] == "succeeded"


@pytest.mark.parametrize("own_house", ["process", "thread"], indirect=True)
def test_what_is_answered_does_not_wait_for_a_long_one_behind_it(own_house: House, tmp_path: Path) -> None:
    """Nothing else runs that would take the answers along."""
    house, sign = own_house, tmp_path / "sign"
    house.start()
    house.all_finished(house.ok("POST", "/v1/events", [{"type": "faulty.bimodal"}] * WARM)["items"])
    events = [{"type": "faulty.bimodal", "data": data} for data in (None, None, None, None, str(sign))]
    *quick, long = house.ok("POST", "/v1/events", events)["items"]
    house.all_finished(quick)
    [run] = house.ok("GET", f"/v1/events/{long['seq']}")["runs"]
    until(lambda: house.ok("GET", f"/v1/runs/{run['id']}")["state"] == "running", "the long one, still there")
    sign.touch()
    assert house.end(run["id"])["state"] == "succeeded"
