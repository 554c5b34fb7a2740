"""Lists, trees and objects with parts are bounded in bytes; what one request may carry is bounded, too."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from .conftest import Serve
from .service import Service, hear, say

HANDLERS = """
from busway import handler

@handler("parent")
def parent(event, ctx):
    for n in range(event.data["children"]):
        ctx.publish("child", "x" * event.data["size"])

@handler("total.process", pool="process", max_attempts=1)
def total(event, ctx):
    parent(event, ctx)

@handler("total.thread", pool="thread", max_attempts=1)
def total_in_threads(event, ctx):
    parent(event, ctx)

@handler("loud", max_attempts=60, backoff={"initial": 0, "jitter": 0})
def loud(event):
    print("x" * 100_000)
    raise ValueError("no" * 20_000)
"""
MIB = 1 << 20


@pytest.fixture(scope="module")
def service(tmp_path_factory: Any) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("pages"), workers=1)
    service.write("all.py", HANDLERS)
    service.start()
    yield service
    service.close()


@pytest.mark.long
def test_a_page_of_large_events_ends_early_and_goes_on(service: Service) -> None:
    seqs = [service.publish("large", "x" * (MIB - 1000))["seq"] for _ in range(20)]
    found, after, pages = [], "", 0
    while True:
        answer = service.get(f"/v1/events?type=large&limit=1000{after}")
        assert len(answer.content) <= 9 * MIB
        page = answer.json()
        found += [event["seq"] for event in page["items"]]
        pages += 1
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert found == seqs[::-1]
    assert pages == 3


def pages(service: Service, path: str) -> list[Any]:
    """Return the items of a list, whose pages are bounded, page by page."""
    found, after = [], ""
    while True:
        answer = service.get(f"{path}?limit=1000{after}")
        assert len(answer.content) <= 9 * MIB
        page = answer.json()
        found.append(page["items"])
        if page["next"] is None:
            return found
        after = f"&after={page['next']}"


@pytest.mark.long
def test_pages_of_large_handlers_end_early_and_go_on(service: Service) -> None:
    names = [f"large-{n:03}" for n in range(320)]
    for name in names:
        made = {"name": name, "target": "all:loud", "events": ["never"], "description": "€" * 10_000}
        service.ok("POST", "/v1/handlers", made)
    found = pages(service, "/v1/handlers")
    assert len(found) > 1
    shown = [item["name"] for page in found for item in page]
    assert shown == sorted(shown)
    assert set(names) <= set(shown)


@pytest.mark.parametrize("pattern", ["small", "small.*", "small.**", "**"])
def test_a_page_of_small_events_is_as_long_as_asked(service: Service, pattern: str) -> None:
    service.ok("POST", "/v1/events", [{"type": f"small.{n}" if n % 2 else "small"} for n in range(30)])
    page = service.ok("GET", f"/v1/events?type={pattern}&limit=10")
    assert (len(page["items"]), page["next"]) == (10, str(page["items"][-1]["seq"]))


def test_a_tree_of_large_events_is_cut(service: Service) -> None:
    event = service.publish("parent", {"children": 14, "size": MIB - 1000})
    service.finished(event["seq"])
    answer = service.get(f"/v1/events/{event['seq']}/tree")
    assert len(answer.content) <= 9 * MIB
    tree = answer.json()
    assert tree["truncated"] is True
    assert 5 <= len(tree["events"]) <= 8
    assert service.ok("GET", f"/v1/events/{event['seq']}")["runs"][0]["handler"] == "parent"


def test_a_tree_of_small_events_is_whole(service: Service) -> None:
    event = service.publish("parent", {"children": 200, "size": 10})
    service.finished(event["seq"])
    tree = service.ok("GET", f"/v1/events/{event['seq']}/tree")
    assert len(tree["events"]) == 200
    assert "truncated" not in tree
    assert tree["events"] == sorted(tree["events"], key=lambda node: node["event"]["seq"])


def test_the_oldest_of_many_loud_attempts_come_without_their_logs(service: Service) -> None:
    event = service.publish("loud")
    service.finished(event["seq"])
    (run,) = service.ok("GET", f"/v1/events/{event['seq']}")["runs"]
    answer = service.get(f"/v1/runs/{run['id']}")
    assert len(answer.content) < 6 * MIB
    attempts = answer.json()["attempts"]
    assert [attempt["attempt"] for attempt in attempts] == list(range(1, 61))
    whole = [attempt["log"] is not None for attempt in attempts]
    assert whole == sorted(whole)
    assert 10 < sum(whole) < 60
    assert attempts[0]["error"]["type"] == "ValueError"
    assert attempts[0]["error"]["traceback"] is None
    assert attempts[-1]["error"]["traceback"]


def test_a_body_without_an_event_has_a_limit_of_its_own(service: Service) -> None:
    many = b'{"name":[' + b"{}," * 400_000 + b"{}]}"
    for path in ("/v1/handlers", "/v1/keys", "/v1/tickets"):
        answer = service.request("POST", path, content=many, headers={"Content-Type": "application/json"})
        assert answer.status_code == 413, answer.text


def test_a_handler_is_refused_with_few_of_its_many_faults(service: Service) -> None:
    wrong = {
        "name": "a",
        "target": "all:loud",
        "events": [5] * 100_000,
        **{f"x{n}": 1 for n in range(20_000)},
    }
    answer = service.request("POST", "/v1/handlers", json=wrong)
    assert answer.status_code == 422
    assert len(answer.json()["errors"]) <= 100


def test_the_subscriptions_of_one_socket_are_bounded_in_memory(service: Service) -> None:
    with service.connect() as socket:
        codes = []
        for n in range(40):
            filters = [{"exact": {"subject": f"{n}-{m}"}} for m in range(256)]
            say(socket, op="subscribe", id=str(n), filter={"any": filters})
            codes.append(hear(socket).get("code"))
        assert codes[0] is None
        assert codes[-1] == "too_many"
        say(socket, op="unsubscribe", id="0")
        assert hear(socket)["op"] == "unsubscribed"
        say(socket, op="subscribe", id="small")
        assert hear(socket)["op"] == "subscribed"


@pytest.mark.parametrize("pool", ["process", "thread"])
@pytest.mark.parametrize(
    ("count", "size", "says"), [(10_001, 1, "10000 events"), (17, 1_000_000, "16777216 bytes")]
)
def test_what_one_attempt_publishes_has_a_total(
    service: Service, pool: str, count: int, size: int, says: str
) -> None:
    event = service.publish(f"total.{pool}", {"children": count, "size": size})
    run = service.run_of(event["seq"])
    assert run["state"] == "dead"
    assert run["error"]["type"] == "ValueError"
    assert says in run["error"]["message"]
    assert service.ok("GET", f"/v1/events/{event['seq']}/tree")["events"] == []


@pytest.mark.long
@pytest.mark.one_database("fills a table of SQLite itself")
def test_pages_of_keys_are_bounded_and_a_scope_counts_once(make_service: Serve) -> None:
    service = make_service(workers=1).start()
    many = ["admin", "publish"] * 20_000
    service.key = service.ok("POST", "/v1/keys", {"name": "me", "scopes": many})["key"]
    [key] = service.ok("GET", "/v1/keys")["items"]
    assert key["scopes"] == ["admin", "publish"]
    with closing(sqlite3.connect(service.database, timeout=60)) as foreign, foreign:  # of an earlier version
        scopes = json.dumps(["publish"] * 90_000)
        for n in range(12):
            foreign.execute(
                "INSERT INTO keys (name, digest, scopes, created_at) VALUES ('old', ?, ?, 1)",
                (b"%d" % n, scopes),
            )
    found = pages(service, "/v1/keys")
    assert len(found) > 1
    assert [item["id"] for page in found for item in page] == list(range(1, 14))
