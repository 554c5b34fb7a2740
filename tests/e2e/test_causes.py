"""What events cause: loops end, and traces go on."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Shared
from .service import Service, until

CODE = """
from busway import handler

@handler("ping", max_attempts=3)
def ping(event, ctx):
    ctx.publish("pong", event.data)
    if event.data and event.data.get("both"):
        ctx.publish("pong.too")

@handler("pong")
def pong(event, ctx):
    ctx.publish("ping", event.data)

@handler("wide", max_attempts=3)
def wide(event, ctx):
    for n in range(60):
        ctx.publish("wide" if n == 0 else "leaf")

@handler("trace.**")
def trace(event, ctx):
    if event.type == "trace.a":
        ctx.publish("trace.b")
        ctx.publish("trace.own", traceparent="00-own-own-01")
    if event.type == "trace.b":
        ctx.publish("trace.c")
"""


@pytest.fixture
def service(shared_service: Shared) -> Service:
    return shared_service(CODE)


@pytest.fixture
def shallow(shared_service: Shared) -> Service:
    return shared_service(CODE, max_depth=2)


def tree(service: Service, seq: int, count: int) -> list[dict[str, Any]]:
    """The events of a tree without an unfinished run, oldest first. There are so many."""

    def probe() -> list[dict[str, Any]] | None:
        found, todo = [], [service.ok("GET", f"/v1/events/{seq}/tree")]
        while todo:
            node = todo.pop()
            found.append({**node["event"], "runs": node["runs"]})
            todo += node["events"]
        states = {run["state"] for event in found for run in event["runs"]}
        unfinished = states & {"available", "running", "retryable"}
        return (
            sorted(found, key=lambda event: event["seq"]) if len(found) >= count and not unfinished else None
        )

    events: list[dict[str, Any]] = until(probe, "a tree that has ended")
    assert len(events) == count
    return events


def test_a_loop_ends_at_the_default_depth(service: Service) -> None:
    seq = service.publish("ping", {"n": 1})["seq"]
    events = tree(service, seq, 65)
    states = [run["state"] for event in events for run in event["runs"]]
    assert states == [*["succeeded"] * 64, "dead"]
    dead = events[-1]["runs"][0]
    assert dead["attempt"] == 1  # another one would end in the same way
    assert dead["error"]["type"] == "TooDeep"
    assert dead["error"]["message"] == (
        "ctx.publish: 'pong' would be 65 events below its root event, and the limit is 64 (--max-depth). "
        "Handlers cause one another: pong → ping → pong"
    )
    (result,) = [item for item in service.results() if item["run"] == dead["id"]]
    assert (result["kind"], result["completes"]) == ("dead", {"succeeded": 64, "dead": 1})


def test_the_depth_is_a_setting_and_holds_for_runs_that_are_read_again(shallow: Service) -> None:
    events = tree(shallow, shallow.publish("ping", {"both": True})["seq"], 4)
    assert [event["type"] for event in events] == ["ping", "pong", "pong.too", "ping"]
    dead = events[-1]["runs"][0]["id"]
    shallow.ok("POST", f"/v1/runs/{dead}/retry")

    def again() -> Any:
        run = shallow.ok("GET", f"/v1/runs/{dead}")
        return run if run["attempt"] == 2 and run["state"] == "dead" else None

    run = until(again, "the second attempt")
    assert [attempt["outcome"] for attempt in run["attempts"]] == ["failed", "failed"]
    assert (
        "the limit is 2 (--max-depth). Handlers cause one another: pong → ping → pong"
        in run["error"]["message"]
    )
    tree(shallow, events[0]["seq"], 4)


def test_many_events_of_an_attempt_that_are_too_deep_are_all_left_out(shallow: Service) -> None:
    events = tree(shallow, shallow.publish("wide")["seq"], 1 + 60 + 60)
    runs = [run for event in events for run in event["runs"]]
    assert [run["state"] for run in runs] == ["succeeded", "succeeded", "dead"]


def test_traces_are_passed_on_unless_a_handler_gives_its_own(service: Service) -> None:
    trace = {"traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", "tracestate": "a=1"}
    root = service.publish("trace.a", **trace)["seq"]
    events = {event["type"]: event for event in tree(service, root, 4)}
    for type_ in ("trace.a", "trace.b", "trace.c"):
        assert {name: events[type_].get(name) for name in trace} == trace
    assert events["trace.own"]["traceparent"] == "00-own-own-01"
    assert "tracestate" not in events["trace.own"]
    plain = service.publish("trace.a")["seq"]
    assert all("tracestate" not in event for event in tree(service, plain, 4))
