"""All processes of a gateway are stopped and go on later: a paused container, a suspended machine."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from .house import House, stopped

pytestmark = [pytest.mark.fault, pytest.mark.long]
TIMEOUT = 10  # seconds; a busy machine needs much less to begin and to end an attempt
FREEZE = TIMEOUT + 1

CODE = f"""
import asyncio, os, time
from busway import handler

def waits(**fields):
    return handler("frozen", timeout={TIMEOUT}, max_attempts=1, **fields)

def sync(event):
    while not os.path.exists(event.data):
        time.sleep(0.005)

async def awaits(event):
    while not os.path.exists(event.data):
        await asyncio.sleep(0.005)

def streams(event):
    while not os.path.exists(event.data):
        time.sleep(0.005)
        yield 1

@waits(pool="process")
def sync_process(event): sync(event)

@waits(pool="thread")
def sync_thread(event): sync(event)

@waits(pool="process")
async def async_process(event): await awaits(event)

@waits(pool="thread")
async def async_thread(event): await awaits(event)

@waits(pool="process")
def yields_process(event): yield from streams(event)

@waits(pool="thread")
def yields_thread(event): yield from streams(event)

@waits(pool="process", memory=64)
def memory_process(event): sync(event)
"""


@pytest.mark.parametrize("first", ["gateway", "workers"])
def test_time_for_which_all_were_stopped_is_charged_to_no_attempt(
    own_house: House, tmp_path: Path, first: str
) -> None:
    house, sign = own_house, tmp_path / "sign"
    house.options["workers"] = 3
    house.write("frozen.py", CODE)
    house.start()
    seq = house.publish("frozen", str(sign))["seq"]
    numbers = [int(run["id"]) for run in house.ok("GET", f"/v1/events/{seq}")["runs"]]
    assert len(numbers) == 7
    for run in numbers:
        house.until_running(run)
    pids = [house.pid, *(process.pid for process in house.family())]
    with stopped(*(pids if first == "gateway" else pids[::-1])):
        time.sleep(FREEZE)
    for _ in range(10):  # after several checks
        assert house.get("/healthz").status_code == 200
    sign.touch()
    for run in map(house.end, numbers):
        assert (run["state"], run["attempt"]) == ("succeeded", 1), run
        assert run["attempts"][0]["wall_time"] > FREEZE
    assert house.run("fine", 1)["state"] == "succeeded"
    assert house.stop() == 0


@pytest.mark.parametrize("own_house", ["process", "thread"], indirect=True)
def test_a_committer_that_was_stopped_with_the_gateway_goes_on(own_house: House) -> None:
    """Also what was being written then, and what wakes first."""
    house = own_house
    house.start()
    receipts = house.ok("POST", "/v1/events", [{"type": "faulty.fine", "data": n} for n in range(2000)])
    with stopped(house.pid, *(process.pid for process in house.family())):
        time.sleep(1)
    house.all_finished(receipts["items"])
    assert {run["state"] for run in house.runs(handler="fine")} == {"succeeded"}
    assert {run["attempt"] for run in house.runs(handler="fine")} == {1}
    assert house.stop() == 0
