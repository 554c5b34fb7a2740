"""Events about operations: who gets them, with what they report on, and that they never cause themselves."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Shared
from .service import Service, until

HANDLER = """
from busway import Fail, handler

@handler("work.dies", max_attempts=1)
def dies(event):
    raise Fail("it never works")

@handler("work.lost")
def idle(event):
    pass

@handler("busway.run.dead", "busway.handler.paused")
def watch(event, ctx):
    ctx.publish("work.alarm", event.data)
    return event.data

@handler("work.alarm", max_attempts=1)
def alarm(event):
    raise Fail("the alarm is broken")

@handler("busway.run.dead", max_attempts=1)
def broken_watch(event):
    raise Fail("it cannot even watch")

@handler("work.loops", max_attempts=1)
def looper(event):
    raise Fail("it begins")

OF_THE_LOOP = {"any": [{"exact": {"subject": "looper"}}, {"exact": {"subject": "hidden"}}]}

@handler("busway.run.dead", filter=OF_THE_LOOP)
def hides(event, ctx):
    ctx.publish("work.hidden", None, correlationid="mine")

@handler("work.hidden", max_attempts=1)
def hidden(event):
    raise Fail("again")

@handler("**", name="everything")
def everything(event):
    return event.type

@handler("*.run.dead", name="nearly")
def nearly(event):
    return event.type
"""


@pytest.fixture
def service(shared_service: Shared) -> Service:
    return shared_service(HANDLER, workers=1)


def about(service: Service, type_: str, subject: str) -> list[dict[str, Any]]:
    """Return the stored events about an operation, newest first."""
    path = f"/v1/events?type={type_}&source=/busway&subject={subject}"
    items: list[dict[str, Any]] = service.ok("GET", path)["items"]
    return items


def test_a_dead_run_is_an_event_for_those_who_name_it(service: Service) -> None:
    receipt = service.publish("work.dies", {"n": 1})
    run = next(run for run in service.finished(receipt["seq"])["runs"] if run["handler"] == "dies")
    (event,) = about(service, "busway.run.dead", "dies")
    assert event["id"] == f"busway.run.dead:{run['id']}:1"
    assert event["data"] == {
        "run": run["id"], "handler": "dies", "attempt": 1,
        "event": {"seq": receipt["seq"], "id": receipt["id"], "type": "work.dies"},
        "error": {"type": "Fail", "message": "it never works"},
    }  # fmt: skip
    assert {run["handler"] for run in service.finished(event["seq"])["runs"]} == {"watch", "broken_watch"}


def test_what_comes_of_such_an_event_makes_no_further_one(service: Service) -> None:
    """Two of its handlers die: one of the event itself, and one of what its handler published."""
    before = len(service.ok("GET", "/v1/events?type=busway.run.dead&limit=1000")["items"])
    service.finished(service.publish("work.dies")["seq"])
    until(lambda: not service.unfinished(), "all runs to end")
    events = service.ok("GET", "/v1/events?type=busway.run.dead&limit=1000")["items"]
    assert len(events) == before + 1
    assert {
        run["handler"] for run in service.finished(events[0]["seq"])["runs"] if run["state"] == "dead"
    } == {"broken_watch"}
    (child,) = service.ok("GET", f"/v1/events/{events[0]['seq']}/tree")["events"]
    assert ("alarm", "dead") in {(run["handler"], run["state"]) for run in child["runs"]}


def test_a_loop_that_hides_where_it_comes_from_ends(service: Service) -> None:
    """Each turn is two events deeper: the event about the dead run, and what its handler publishes."""
    service.publish("work.loops")
    until(lambda: service.runs(handler="looper", state="dead"), "the loop to begin")
    until(lambda: not service.unfinished(), "the loop to end")
    depth = 64
    assert len(about(service, "busway.run.dead", "hidden")) == depth // 2 - 1


def test_a_tree_completes_without_the_events_about_it(service: Service) -> None:
    receipt = service.publish("work.dies")
    service.finished(receipt["seq"])
    results = [item for item in service.results() if item["event"]["seq"] == receipt["seq"]]
    (completes,) = [item["completes"] for item in results if item["completes"]]
    assert completes == {"succeeded": 1, "dead": 1}


def test_a_pause_is_an_event(service: Service) -> None:
    service.ok("POST", "/v1/handlers/idle/pause")
    (event,) = about(service, "busway.handler.paused", "idle")
    assert event["data"]["handler"] == "idle"
    assert {run["handler"] for run in service.finished(event["seq"])["runs"]} == {"watch"}
    service.ok("PATCH", "/v1/handlers/idle", {"paused": False})
    service.ok("PATCH", "/v1/handlers/idle", {"paused": True})
    assert len(about(service, "busway.handler.paused", "idle")) == 2
    service.ok("POST", "/v1/handlers/idle/resume")
    service.ok("POST", "/v1/handlers/watch/pause")
    assert about(service, "busway.handler.paused", "watch") == []
    service.ok("POST", "/v1/handlers/watch/resume")


def test_the_source_is_the_gateways_own_and_the_types_are_not(service: Service) -> None:
    answer = service.post("/v1/events", {"type": "busway.run.dead", "source": "/busway"})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["body", "source"]
    receipt = service.publish("busway.run.dead", {"of": "another gateway"})
    handlers = {run["handler"] for run in service.finished(receipt["seq"])["runs"]}
    assert handlers == {"watch", "broken_watch", "everything", "nearly"}
