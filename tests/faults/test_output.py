"""What handlers return, raise, print, close and leak: clear errors, kept output, unharmed neighbours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from .house import House, appear, until

pytestmark = pytest.mark.fault


@pytest.mark.long
@pytest.mark.parametrize(
    ("handler", "data", "error", "says"),
    [
        ("unencodable", None, "NotEncodable", "object"),
        ("unencodable", "nan", "NotEncodable", "nan"),
        ("unencodable", "-inf", "NotEncodable", "inf"),
        ("raises_broken", None, "Broken", "<its __str__ raised RuntimeError>"),
        ("raises_unpicklable", None, "Unpicklable", "one of two \\udc80"),
        ("recurses", None, "RecursionError", "maximum recursion depth exceeded"),
    ],
)
def test_what_cannot_be_stored_or_told_fails_with_a_clear_error(
    house: House, handler: str, data: Any, error: str, says: str
) -> None:
    run = house.run(handler, data)
    assert (run["state"], run["error"]["type"]) == ("dead", error)
    assert says in run["error"]["message"]
    assert [a["outcome"] for a in run["attempts"]] == ["failed"]
    assert run["attempts"][0]["worker"] in [worker["pid"] for worker in house.workers()], "its worker lives"


@pytest.mark.parametrize("name", ["Busy", "Nameless"])
def test_an_exception_that_cannot_be_looked_at_is_retried_by_the_backoff(house: House, name: str) -> None:
    run = house.run("raises_hostile", name)
    assert (run["state"], run["error"]["type"]) == ("dead", name)
    assert [(a["outcome"], a["error"]["type"]) for a in run["attempts"]] == [("failed", name)] * 2
    assert {a["worker"] for a in run["attempts"]} <= {worker["pid"] for worker in house.workers()}


def test_an_exception_keeps_the_frames_of_the_handler_alone(house: House) -> None:
    trace = house.run("raises_broken")["attempts"][0]["error"]["traceback"]
    assert "in raises_broken" in trace
    assert "busway/gateway" not in trace


def test_what_an_attempt_prints_is_kept_with_it(house: House) -> None:
    run = house.run("prints")
    assert run["state"] == "succeeded"
    assert run["attempts"][0]["log"] == "to stdout\nto stderr\nbytes\nINFO prints: to the log\n"


def test_what_c_code_prints_is_in_the_gateways_log(house: House) -> None:
    assert house.run("prints_in_c", "a line")["state"] == "succeeded"
    until(lambda: "a line from C" in house.log.read_text(), "the line")


def test_the_last_words_of_c_code_are_kept_with_the_attempt_that_it_killed(house: House) -> None:
    run = house.run("prints_in_c_and_aborts")
    assert (run["state"], run["error"]["message"]) == ("dead", "killed by SIGABRT")
    assert "last words from C\n" in run["attempts"][-1]["log"]
    assert "in prints_in_c_and_aborts" in run["attempts"][-1]["error"]["traceback"]


def test_a_handler_that_closes_the_standard_descriptors_harms_nobody(house: House) -> None:
    closed = set()
    for _ in range(4):
        run = house.run("closes_descriptors")
        assert run["state"] == "succeeded"
        closed.add(run["attempts"][-1]["worker"])
        assert house.run("prints")["state"] == "succeeded"

    def replaced() -> bool:
        assert house.run("exits", 0)["error"]["message"] == "exited with status 0"
        return closed.isdisjoint(worker["pid"] for worker in house.workers())

    until(replaced, "other workers, whose output the gateway reads")


def test_a_handler_that_leaks_descriptors_fails_and_its_worker_is_replaced(house: House) -> None:
    run = house.run("leaks_descriptors")
    assert (run["state"], run["error"]["type"]) == ("dead", "OSError")
    assert "Too many open files" in run["error"]["message"]
    worker = run["attempts"][-1]["worker"]
    until(lambda: worker not in [w["pid"] for w in house.workers()], "a worker that can open files")
    assert house.run("waits_for", __file__)["state"] in {"succeeded", "dead"}


def test_results_of_every_size_up_to_the_limit_arrive(house: House, tmp_path: Path) -> None:
    for size in (0, 1, 65_535, 65_536, 1 << 20):
        sign = tmp_path / f"{size}"
        appear(sign, str(size))
        run = house.run("waits_for", str(sign))
        assert len(house.results_of(run["id"])[-1]["data"]) == size
