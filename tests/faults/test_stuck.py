"""Handlers that do not end when they should, and those that take all the time there is."""

from __future__ import annotations

import time
from pathlib import Path

import httpx
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
    def answered(seconds: float) -> int:
        count, end = 0, time.monotonic() + seconds
        with httpx.Client(timeout=60) as client:
            while time.monotonic() < end:
                client.get(house.url + "/healthz").raise_for_status()
                count += 1
        return count

    quiet = answered(0.5)
    runs = [house.begin("spins_in_threads") for _ in range(2)]
    busy = answered(0.5)
    for run in runs:
        house.ok("POST", f"/v1/runs/{run}/cancel")
    print(f"healthz answered {quiet} times in a quiet half second, {busy} times beside 8 busy threads")
    assert busy > quiet / 25, "handlers' threads keep the API from answering"
    until(house.idle, "the threads to end")


def test_a_long_attempt_delays_no_other_handler(house: House, tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    long = house.begin("waits_for", str(sign))
    events = [{"type": "faulty.fine"}] * 200
    for receipt in house.ok("POST", "/v1/events", events)["items"]:
        house.finished(receipt["seq"])
    assert house.ok("GET", f"/v1/runs/{long}")["state"] == "running", "it ended before they did"
    sign.touch()
    assert house.end(long)["state"] == "succeeded"


def test_a_long_attempt_delays_no_short_one_of_its_own_quick_handler(house: House, tmp_path: Path) -> None:
    sign = tmp_path / "sign"
    warm = house.ok("POST", "/v1/events", [{"type": "faulty.bimodal"}] * WARM)["items"]
    for receipt in warm:
        house.finished(receipt["seq"])
    events = [{"type": "faulty.bimodal", "data": str(sign) if n == 20 else None} for n in range(200)]
    seqs = [receipt["seq"] for receipt in house.ok("POST", "/v1/events", events)["items"]]
    long = house.ok("GET", f"/v1/events/{seqs[20]}")["runs"][0]["id"]
    for seq in seqs[:20] + seqs[21:]:
        house.finished(seq)
    assert house.ok("GET", f"/v1/runs/{long}")["state"] == "running", "it ended before they did"
    sign.touch()
    assert house.end(long)["state"] == "succeeded"


@pytest.mark.parametrize("own_house", ["process", "thread"], indirect=True)
def test_what_is_answered_does_not_wait_for_a_long_one_behind_it(own_house: House, tmp_path: Path) -> None:
    """Nothing else runs that would take the answers along."""
    house, sign = own_house, tmp_path / "sign"
    house.start()
    for receipt in house.ok("POST", "/v1/events", [{"type": "faulty.bimodal"}] * WARM)["items"]:
        house.finished(receipt["seq"])
    events = [{"type": "faulty.bimodal", "data": data} for data in (None, None, None, None, str(sign))]
    *quick, long = [receipt["seq"] for receipt in house.ok("POST", "/v1/events", events)["items"]]
    for seq in quick:
        house.finished(seq)
    [run] = house.ok("GET", f"/v1/events/{long}")["runs"]
    until(lambda: house.ok("GET", f"/v1/runs/{run['id']}")["state"] == "running", "the long one, still there")
    sign.touch()
    assert house.end(run["id"])["state"] == "succeeded"
