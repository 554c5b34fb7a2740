"""Breakers: a handler that only fails pauses itself, and says so."""

from __future__ import annotations

from typing import Any

import pytest

from .conftest import Serve, Shared
from .service import Service, until

HANDLER = """
from pathlib import Path
from busway import Fail, handler

MENDED = Path(FOLDER) / "mended"

def work(event):
    if event.data.get("ok") or MENDED.exists():
        return "done"
    raise Fail("it is broken")

@handler("count.**", max_attempts=1, concurrency=1, breaker={"failures": 3, "within": 3600})
def count(event):
    return work(event)

@handler("again", max_attempts=1, concurrency=1, breaker={"failures": 2, "within": 3600, "for": 1})
def again(event):
    return work(event)

@handler("busway.handler.paused", concurrency=1, max_attempts=1, breaker={"failures": 1, "within": 60})
def watch(event):
    if event.data["handler"] == "watch":
        raise Fail("it must not get its own pauses")
    if event.subject == "poison":
        raise Fail("it fails")
    return event.data

@handler("poison", breaker={"failures": 1, "within": 60}, max_attempts=1)
def poison(event):
    raise Fail("it fails")
"""


@pytest.fixture
def service(shared_service: Shared) -> Service:
    return shared_service(HANDLER, workers=1)


def shown(service: Service, name: str) -> dict[str, Any]:
    handler: dict[str, Any] = service.ok("GET", f"/v1/handlers/{name}")
    return handler


def paused(service: Service, name: str) -> dict[str, Any]:
    """Wait until a handler is paused."""
    found: dict[str, Any] = until(lambda: (h := shown(service, name))["paused"] and h, f"{name} to be paused")
    return found


def states(service: Service, receipts: list[dict[str, Any]]) -> list[str]:
    return [service.ok("GET", f"/v1/events/{receipt['seq']}")["runs"][0]["state"] for receipt in receipts]


def test_it_pauses_after_so_many_failures_without_a_success(service: Service) -> None:
    """Exactly then: one run at a time starts, so none starts after the third failure."""
    before = [service.publish("count.before", {"ok": ok}) for ok in (False, False, True, False, False, True)]
    service.all_finished(before)
    handler = shown(service, "count")
    assert (handler["paused"], handler["paused_by"]) == (False, None)
    receipts = [service.publish("count.now", {}) for _ in range(8)]
    handler = paused(service, "count")
    assert states(service, receipts) == ["dead"] * 3 + ["available"] * 5
    assert (handler["paused_by"], handler["paused_until"]) == ("breaker", None)
    assert handler["paused_reason"] == "3 attempts failed within 3600 s, and none succeeded between them"
    assert handler["waits_because"].startswith("it is paused: 3 attempts failed")
    assert handler["revision"] == 1
    if service.beside is None:
        service.logged("the handler count paused itself: 3 attempts failed within 3600 s")
    (event,) = service.ok("GET", "/v1/events?type=busway.handler.paused&subject=count")["items"]
    assert (event["source"], event["data"]["paused_by"]) == ("/busway", "breaker")
    assert service.run_of(event["seq"])["state"] == "succeeded"
    resumed = service.ok("POST", "/v1/handlers/count/resume")
    assert (resumed["paused"], resumed["paused_by"], resumed["paused_reason"]) == (False, None, None)
    paused(service, "count")  # it counts from the beginning: three more
    assert states(service, receipts) == ["dead"] * 6 + ["available"] * 2
    service.ok("PATCH", "/v1/handlers/count", {"breaker": None, "paused": False})
    service.all_finished(receipts)
    assert shown(service, "count")["overrides"] == {"breaker": None} or not shown(service, "count")["paused"]
    service.ok("PATCH", "/v1/handlers/count", {"breaker": {"failures": 3, "within": 3600}})


@pytest.mark.long
def test_it_resumes_by_itself_and_one_failure_pauses_it_again(service: Service) -> None:
    receipts = [service.publish("again", {}) for _ in range(5)]
    until(
        lambda: states(service, receipts).count("dead") >= 3, "it to resume by itself, and to fail once more"
    )
    until(lambda: states(service, receipts) == ["dead"] * 5, "it to try each time")
    events = service.ok("GET", "/v1/events?type=busway.handler.paused&subject=again")["items"]
    assert len(events) == 4  # after two failures, then after each
    assert all(event["data"]["paused_until"] for event in events)
    until(lambda: not shown(service, "again")["paused"], "it to resume")
    (service.folder / "mended").touch()
    service.finished(service.publish("again", {})["seq"])
    (service.folder / "mended").unlink()
    service.finished(service.publish("again", {})["seq"])
    assert shown(service, "again")["paused"] is False  # a success closed it: one failure is not enough


def test_a_pause_by_hand_stays(service: Service) -> None:
    service.ok("POST", "/v1/handlers", {
        "name": "held", "target": "all:work", "events": ["held"], "max_attempts": 1,
        "breaker": {"failures": 1, "within": 60, "for": 2},
    })  # fmt: skip
    service.publish("held", {})
    paused(service, "held")
    held = service.ok("POST", "/v1/handlers/held/pause")
    assert (held["paused"], held["paused_by"], held["paused_until"]) == (True, None, None)
    assert service.request("POST", "/v1/handlers/held/pause").status_code == 409
    service.ok("DELETE", "/v1/handlers/held")


def test_a_handler_of_such_events_makes_none_when_its_breaker_pauses_it(service: Service) -> None:
    service.publish("poison", {})
    paused(service, "poison")
    handler = paused(service, "watch")
    assert handler["paused_by"] == "breaker"
    path = "/v1/events?type=busway.handler.paused&subject="
    assert len(service.ok("GET", path + "poison")["items"]) == 1
    assert service.ok("GET", path + "watch")["items"] == []
    service.ok("POST", "/v1/handlers/watch/resume")
    service.ok("PATCH", "/v1/handlers/poison", {"paused": False})


@pytest.mark.parametrize(
    "breaker",
    [
        {}, [], 3, {"failures": 3}, {"within": 60}, {"failures": 0, "within": 60},
        {"failures": 1.5, "within": 60},
        {"failures": True, "within": 60}, {"failures": 1001, "within": 60}, {"failures": 1, "within": 0},
        {"failures": 1, "within": 90_000}, {"failures": 1, "within": 1, "for": 0},
        {"failures": 1, "within": 1, "for": "5m"}, {"failures": 1, "within": 1, "until": 1},
    ],
)  # fmt: skip
def test_a_bad_breaker_is_refused(service: Service, breaker: Any) -> None:
    answer = service.request("PATCH", "/v1/handlers/count", json={"breaker": breaker})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"][:2] == ["body", "breaker"]


@pytest.mark.long
def test_kill_keeps_what_was_counted_and_the_pause(make_service: Serve) -> None:
    service = make_service(workers=1)
    service.write("all.py", HANDLER.replace("FOLDER", repr(str(service.folder))))
    service.start()
    receipts = [service.publish("count.killed", {}) for _ in range(2)]
    service.all_finished(receipts)
    service.kill()
    service.start()
    receipts += [service.publish("count.killed", {}) for _ in range(2)]
    paused(service, "count")
    assert states(service, receipts) == ["dead"] * 3 + ["available"]
    service.kill()
    service.start()
    handler = shown(service, "count")
    assert (handler["paused"], handler["paused_by"]) == (True, "breaker")
    assert states(service, receipts) == ["dead"] * 3 + ["available"]
