"""Cancelling races with completing; it never hits anything but its own attempt."""

from __future__ import annotations

import random
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from .house import FINAL, PATIENCE, House, seeded, until

pytestmark = pytest.mark.fault
RACES, RACERS, BATCH = 500, 4, 50  # in each of both pools
NAP = 0.0006  # seconds that one unit of a handler's work takes


class Race:
    """Batches of runs, and as many who cancel them in the order in which they start, about as fast.

    How long the handlers work follows how long a cancel takes on this machine, so that neither always wins.
    """

    def __init__(self, house: House, chance: random.Random) -> None:
        self._house, self._chance = house, chance
        self._seats = 2 if house.pool == "process" else 8
        self._latency = 0.01
        self._client = httpx.Client(timeout=PATIENCE, verify=False)
        self.hit: set[int] = set()
        self.spared: set[int] = set()
        self.neighbours = 0

    def run(self) -> None:
        with self._client, ThreadPoolExecutor(RACERS) as racers:
            for _ in range(RACES // BATCH):
                list(racers.map(self._cancel, self._publish()))

    def _publish(self) -> list[int]:
        usual = self._seats * self._latency / RACERS / NAP / 2
        events: list[dict[str, Any]] = []
        for _ in range(BATCH):
            work = round(self._chance.random() * 2 * usual)
            events.append({"type": "faulty.hits_or_misses", "data": work})
            if self._chance.random() < 0.3:
                events.append({"type": "faulty.quick", "data": self._chance.choice([0, 1, 3])})
        self.neighbours += len(events) - BATCH
        self._house.ok("POST", "/v1/events", events)
        newest = self._client.get(
            self._house.url + "/v1/runs", params={"handler": "hits_or_misses", "limit": BATCH}
        )
        return [run["id"] for run in reversed(newest.json()["items"])]

    def _cancel(self, run: int) -> None:
        begun = time.monotonic()
        answer = self._client.post(f"{self._house.url}/v1/runs/{run}/cancel")
        self._latency += (time.monotonic() - begun - self._latency) / 10
        assert answer.status_code in {200, 409}, answer.text
        (self.hit if answer.status_code == 200 else self.spared).add(run)


@pytest.mark.long
def test_cancel_racing_completion_a_thousand_times(house: House) -> None:
    before = house.results()[-1]["cursor"]
    race = Race(house, seeded())
    race.run()
    assert len(race.hit) + len(race.spared) == RACES
    print(f"{len(race.hit)} cancelled, {len(race.spared)} had ended before")
    assert min(len(race.hit), len(race.spared)) > 0, "one side always won: the race shows nothing"
    until(lambda: house.idle() and not house.runs(state="available") + house.runs(state="running"), "rest")
    finals: dict[int, list[str]] = {run: [] for run in race.hit | race.spared}
    for item in house.results(after=before, handlers="hits_or_misses"):
        if item["kind"] in FINAL:
            finals[item["run"]].append(item["kind"])
    assert {run for run, kinds in finals.items() if kinds == ["cancelled"]} == race.hit
    assert {run for run, kinds in finals.items() if kinds == ["succeeded"]} == race.spared
    neighbours = [i for i in house.results(after=before, handlers="quick") if i["kind"] in FINAL]
    assert {(i["kind"], i["data"], i["attempt"]) for i in neighbours} == {("succeeded", "uncancelled", 1)}
    assert len(neighbours) == race.neighbours, "a cancel hit another attempt than its own"


@pytest.mark.long
def test_what_is_cancelled_and_retried_at_once_ends_by_its_new_attempt(house: House) -> None:
    for _ in range(15):
        seq = house.publish("faulty.hits_or_misses", 20)["seq"]
        run = house.ok("GET", f"/v1/events/{seq}")["runs"][0]["id"]
        if house.post(f"/v1/runs/{run}/cancel").status_code == 200:
            house.ok("POST", f"/v1/runs/{run}/retry")
        ended = house.end(run)
        assert ended["state"] == "succeeded"
        kinds = [item["kind"] for item in house.results_of(run)]
        assert kinds.count("succeeded") == 1
        assert kinds[-1] == "succeeded", "the outcome of the cancelled attempt was taken for the new one's"


@pytest.mark.parametrize("handler", ["swallows_for_long", "spins_in_threads", "never_ends_async"])
def test_a_running_attempt_that_is_cancelled_ends(house: House, handler: str) -> None:
    run = house.begin(handler)
    answer = house.ok("POST", f"/v1/runs/{run}/cancel")
    assert answer["state"] == "cancelled"
    until(house.idle, "its end")
    assert house.finals_of(run) == ["cancelled"]
    assert [a["outcome"] for a in house.end(run)["attempts"]] == ["cancelled"]
