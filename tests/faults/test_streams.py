"""Generators that crash, never end, or are not wanted any more."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from .house import House, stopped, until

pytestmark = pytest.mark.fault


def test_a_generator_that_crashes_leaves_its_partials_and_starts_again_at_0(house: House) -> None:
    run = house.run("yields_and_crashes", 5)
    assert run["state"] == "dead"
    charged = [a["attempt"] for a in run["attempts"] if a["outcome"] == "failed"]
    assert len(charged) == 2
    results = house.results_of(run["id"])
    for attempt in charged:
        partials = [
            (i["index"], i["data"]) for i in results if i["attempt"] == attempt and i["index"] is not None
        ]
        assert partials == [(n, n) for n in range(5)], "what it sent before it died counts"
    kinds = [i["kind"] for i in results if i["kind"] != "partial"]
    assert kinds.count("lost") == sum(a["outcome"] == "lost" for a in run["attempts"])
    assert [kind for kind in kinds if kind != "lost"] == ["failed", "dead"]


@pytest.mark.long
@pytest.mark.parametrize("handler", ["never_ends", "never_ends_async"])
def test_an_endless_generator_goes_at_the_stores_pace_in_bounded_memory(house: House, handler: str) -> None:
    process = psutil.Process(house.pid)
    run = house.begin(handler)
    # One page: it writes faster than a busy machine reads, so that all pages might have no end.
    page = {"types": f"faulty.{handler}", "limit": 200}
    until(lambda: len(house.get("/v1/results", params=page).json()["items"]) > 100, "some values")
    with stopped(house.committer().pid):
        time.sleep(0.1)  # what was on its way arrives
        before = process.memory_info().rss
        time.sleep(0.5)
        grown = process.memory_info().rss - before
    house.ok("POST", f"/v1/runs/{run}/cancel")
    until(house.idle, "its end")
    assert grown < 8 << 20, f"{grown >> 20} MiB more in half a second in which nothing could be stored"
    results = house.results_of(run)
    assert results[-1]["kind"] == "cancelled"
    assert [item["index"] for item in results[:-1]] == list(range(len(results) - 1))


def test_a_generator_whose_run_is_cancelled_is_closed(house: House, tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    run = house.begin("cleans_up", str(closed))
    until(lambda: house.results_of(run), "its first value")
    house.ok("POST", f"/v1/runs/{run}/cancel")
    until(closed.exists, "its finally")
    assert house.finals_of(run) == ["cancelled"]
    assert house.results_of(run)[-1]["kind"] == "cancelled", "nothing follows the end"


def test_of_progress_that_is_too_fast_the_newest_arrives_while_the_handler_runs(
    house: House, tmp_path: Path
) -> None:
    sign = tmp_path / "sign"
    run = house.begin("reports_fast", str(sign))

    def newest() -> Any:
        return [item["data"]["progress"] for item in house.results_of(run)]

    until(lambda: newest()[-1:] == [4999], "the newest report")
    assert len(newest()) < 5000, "it was not too fast: the test shows nothing"
    sign.touch()
    assert house.end(run)["state"] == "succeeded"
    results = house.results_of(run)
    assert [item["index"] for item in results[:-1]] == list(range(len(results) - 1))
    assert results[-2]["data"]["progress"] == 5000
    told = [item["data"]["progress"] for item in results[:-1]]
    assert told == sorted(set(told))
