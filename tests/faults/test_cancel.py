"""Cancelling races with completing; it never hits anything but its own attempt."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from .house import FINAL, House, seeded, until

pytestmark = pytest.mark.fault
RACES, RACERS = 1000, 4


def race(house: House, seed: int, rounds: int) -> tuple[list[int], list[int]]:
    """Publish pairs, cancel the first of each at some moment; return (cancelled with 200, the others)."""
    chance = random.Random(seed)
    hit: list[int] = []
    spared: list[int] = []
    with httpx.Client(timeout=60) as client:

        def call(path: str, body: Any = None) -> httpx.Response:
            return client.post(house.url + path, json=body)

        for _ in range(rounds):
            work = chance.choice([0, 0, 1, 3, 6])
            events = [
                {"type": "faulty.hits_or_misses", "data": work},
                {"type": "faulty.quick", "data": chance.choice([0, 1, 3])},
            ]
            items = call("/v1/events", events).raise_for_status().json()["items"]
            found = client.get(f"{house.url}/v1/events/{items[0]['seq']}").json()["runs"][0]["id"]
            time.sleep(chance.random() * 0.003 * (work > 0))
            answer = call(f"/v1/runs/{found}/cancel")
            assert answer.status_code in {200, 409}, answer.text
            (hit if answer.status_code == 200 else spared).append(found)
    return hit, spared


@pytest.mark.timeout(240)
def test_cancel_racing_completion_a_thousand_times(house: House) -> None:
    chance = seeded()
    before = house.results()[-1]["cursor"]
    with ThreadPoolExecutor(RACERS) as racers:
        seeds = [chance.randrange(1 << 32) for _ in range(RACERS)]
        races = list(racers.map(lambda seed: race(house, seed, RACES // RACERS), seeds))
    hit = {run for found, _ in races for run in found}
    spared = {run for _, found in races for run in found}
    assert len(hit) + len(spared) == RACES
    print(f"{len(hit)} cancelled, {len(spared)} had ended before")
    assert hit, "no cancel won: the race shows nothing"
    until(lambda: house.idle() and not house.runs(state="running") + house.runs(state="available"), "rest")
    finals: dict[int, list[str]] = {run: [] for run in hit | spared}
    for item in house.results(after=before, handlers="hits_or_misses"):
        if item["kind"] in FINAL:
            finals[item["run"]].append(item["kind"])
    assert {run for run, kinds in finals.items() if kinds == ["cancelled"]} == hit
    assert {run for run, kinds in finals.items() if kinds == ["succeeded"]} == spared
    neighbours = [i for i in house.results(after=before, handlers="quick") if i["kind"] in FINAL]
    assert {(i["kind"], i["data"], i["attempt"]) for i in neighbours} == {("succeeded", "uncancelled", 1)}
    assert len(neighbours) == RACES, "a cancel hit another attempt than its own"


def test_what_is_cancelled_and_retried_at_once_ends_by_its_new_attempt(house: House) -> None:
    for _ in range(30):
        seq = house.publish("faulty.hits_or_misses", 20)["seq"]
        run = house.ok("GET", f"/v1/events/{seq}")["runs"][0]["id"]
        if house.post(f"/v1/runs/{run}/cancel").status_code == 200:
            house.ok("POST", f"/v1/runs/{run}/retry")
        ended = house.end(run)
        assert ended["state"] == "succeeded"
        kinds = [item["kind"] for item in house.results_of(run)]
        assert kinds.count("succeeded") == 1
        assert kinds[-1] == "succeeded", "the outcome of the cancelled attempt was taken for the new one's"


@pytest.mark.parametrize("handler", ["swallows", "spins_in_threads", "never_ends_async"])
def test_a_running_attempt_that_is_cancelled_ends(house: House, handler: str) -> None:
    run = house.begin(handler)
    answer = house.ok("POST", f"/v1/runs/{run}/cancel")
    assert answer["state"] == "cancelled"
    until(house.idle, "its end")
    assert house.finals_of(run) == ["cancelled"]
    assert [a["outcome"] for a in house.end(run)["attempts"]] == ["cancelled"]
