"""Filters of handlers and subscriptions on a real gateway."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .service import Service, items

CODE = """
from busway import handler

@handler("order.*", filter={"exact": {"data.customer.country": "NO"}})
def norway(event):
    return event.data["customer"]["country"]

@handler("order.*", filter={"any": [{"prefix": {"subject": "vip-"}}, {"exact": {"priority": "9"}}]})
def important(event):
    return event.subject

@handler("order.*")
def every(event, ctx):
    if event.type == "order.created":
        for n in (1, 2, 3):
            ctx.publish("part.made", {"n": n})

@handler("part.*", filter={"not": {"exact": {"data.n": 2}}})
def odd(event):
    return event.data["n"]

def free(event):
    return event.id
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder: Path = tmp_path_factory.mktemp("filters")
    made = Service(folder, pool="thread", workers=1)
    made.write("shop.py", CODE)
    made.start()
    yield made
    made.close()


@pytest.mark.parametrize(
    ("event", "started"),
    [
        ({"data": {"customer": {"country": "NO"}}}, {"norway", "every"}),
        ({"data": {"customer": {"country": "SE"}}}, {"every"}),
        ({"data": [1]}, {"every"}),
        ({}, {"every"}),
        ({"data_base64": "e30="}, {"every"}),
        ({"subject": "vip-7"}, {"important", "every"}),
        ({"priority": 9, "data": {"customer": {"country": "NO"}}}, {"norway", "important", "every"}),
    ],
)
def test_an_event_starts_only_the_handlers_whose_filter_admits_it(
    service: Service, event: dict[str, Any], started: set[str]
) -> None:
    receipt = service.ok("POST", "/v1/events", {"type": "order.x", **event})
    runs = service.finished(receipt["seq"])["runs"]
    assert receipt["runs"] == len(runs)
    assert {run["handler"] for run in runs} == started


def test_what_handlers_publish_is_filtered_too(service: Service) -> None:
    with service.subscribed(handlers=["odd"]) as socket:
        service.publish("order.created")
        assert [item["data"] for item in items(socket, 2)] == [1, 3]


def test_a_filter_over_http_makes_a_revision_and_holds_for_later_events(service: Service) -> None:
    fields = {"name": "mine", "target": "shop:free", "events": ["m"], "filter": {"exact": {"data": 1}}}
    made = service.ok("POST", "/v1/handlers", fields)
    assert (made["revision"], made["filter"]) == (1, {"exact": {"data": 1}})
    service.ok("POST", "/v1/handlers/mine/pause")
    early = service.publish("m", 1)
    assert (early["runs"], service.publish("m", 2)["runs"]) == (1, 0)
    changed = service.ok("PATCH", "/v1/handlers/mine", {"filter": {"exact": {"data": 2}}})
    assert (changed["revision"], changed["filter"]) == (2, {"exact": {"data": 2}})
    assert (service.publish("m", 1)["runs"], service.publish("m", 2)["runs"]) == (0, 1)
    service.ok("POST", "/v1/handlers/mine/resume")
    assert service.finished(early["seq"])["runs"][0]["state"] == "succeeded"
    assert service.ok("PATCH", "/v1/handlers/mine", {"filter": None})["filter"] is None
    assert service.publish("m", 3)["runs"] == 1
    revisions = service.ok("GET", "/v1/handlers/mine/revisions")["items"]
    assert [r["filter"] for r in revisions] == [None, {"exact": {"data": 2}}, {"exact": {"data": 1}}]
    assert service.request("DELETE", "/v1/handlers/mine").status_code == 204


def test_a_filter_set_over_http_overrides_the_codes_until_null(service: Service) -> None:
    event = {"customer": {"country": "NO"}}
    declared = service.ok("GET", "/v1/handlers/norway")["filter"]
    assert service.ok("PATCH", "/v1/handlers/norway", {"filter": {"exact": {"subject": "x"}}})["filter"]
    assert service.publish("order.y", event)["runs"] == 1
    assert service.ok("PATCH", "/v1/handlers/norway", {"filter": None})["filter"] == declared
    assert service.publish("order.y", event)["runs"] == 2


def test_a_bad_filter_changes_nothing(service: Service) -> None:
    before = service.ok("GET", "/v1/handlers/norway")
    for bad in ({}, {"all": []}, {"exact": {"data.x": {}}}, {"sql": "1"}, [], "x"):
        answer = service.request("PATCH", "/v1/handlers/norway", json={"filter": bad})
        assert answer.status_code == 422
        assert answer.json()["errors"][0]["loc"] == ["body", "filter"]
    after = service.ok("GET", "/v1/handlers/norway")
    assert (after["revision"], after["filter"]) == (before["revision"], before["filter"])


def test_a_trial_tells_whether_the_event_matches(service: Service) -> None:
    for country, matches in (("NO", True), ("SE", False)):
        event = {"type": "order.z", "data": {"customer": {"country": country}}}
        answer = service.ok("POST", "/v1/handlers/norway/test", {"event": event})
        assert (answer["outcome"], answer["data"], answer["matches"]) == ("succeeded", country, matches)
