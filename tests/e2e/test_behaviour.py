"""What handlers see and what comes of them: the same in both pools, only `--pool` differs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .service import Service, hear, items, items_until, say, until

HANDLERS = """
import asyncio, os, sys, time
from datetime import UTC, datetime
from decimal import Decimal
import busway
from busway import Context, handler

@handler("plain", description="says what it saw")
def plain(event, ctx: Context):
    return {"data": event.data, "type": event.type, "source": event.source, "subject": event.subject,
            "attributes": dict(event.attributes), "handler": ctx.handler, "attempt": ctx.attempt}

@handler("lone")
def lone(event):
    return event.data

@handler("async")
async def coroutine(event, ctx):
    await asyncio.sleep(0.01)
    return [event.data, ctx.handler]

@handler("generator")
def generator(event, ctx):
    ctx.progress(0.5, "half")
    for n in range(3):
        yield {"page": n}
    return "done"

@handler("agenerator")
async def agenerator(event):
    for n in range(3):
        await asyncio.sleep(0)
        yield n

@handler("bytes")
def raw(event):
    return event.data + b"!" if isinstance(event.data, bytes) else b"none"

@handler("print")
def printing(event, ctx):
    print("out here")
    print("err here", file=sys.stderr)
    ctx.log.warning("log %s", "here")

@handler("raise", max_attempts=2, backoff={"initial": 0.05, "jitter": 0})
def raising(event, ctx):
    raise ValueError(f"attempt {ctx.attempt}")

@handler("second", backoff={"initial": 0.05})
def second(event, ctx):
    if ctx.attempt == 1:
        raise RuntimeError("not yet")
    return ctx.attempt

@handler("fail")
def failing(event):
    raise busway.Fail("no use")

@handler("later")
def later(event, ctx):
    if ctx.attempt == 1:
        raise busway.Retry(after=0.2)
    return "came back"

@handler("exit", max_attempts=1)
def leaving(event):
    sys.exit(3)

@handler("die", max_attempts=2, backoff={"initial": 0.05})
def dying(event):
    os._exit(7)

@handler("slow", max_attempts=1, timeout=0.5)
def slow(event):
    time.sleep(60)

@handler("unencodable")
def unencodable(event):
    return {"items": [1, 2, 3, {"price": 1j}]}

@handler("published")
def published(event, ctx):
    ctx.publish("never", {"items": [Decimal("nan")]})

@handler("forms")
def forms(event):
    return {"when": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "total": Decimal("1.50"), 7: (1, {3, 2})}

@handler("nan")
def nan(event):
    return float("nan")

@handler("chain.start")
def chain_start(event, ctx):
    ctx.publish("chain.next", {"n": 1}, subject="x")
    ctx.publish("chain.next", {"n": 2})

@handler("chain.next")
def chain_next(event, ctx):
    if event.data["n"] == 2:
        raise busway.Fail("two")
    ctx.publish("chain.end")
    return event.data

@handler("chain.end")
def chain_end(event):
    return "end"

@handler("halfway", max_attempts=1)
def halfway(event, ctx):
    ctx.publish("chain.end")
    raise ValueError("so nothing is published")

@handler("pid")
def pid(event):
    return os.getpid()
"""


@pytest.fixture(scope="module", params=["process", "thread"])
def service(request: Any, tmp_path_factory: Any) -> Iterator[Service]:
    folder: Path = tmp_path_factory.mktemp(request.param)
    service = Service(folder, pool=request.param)
    service.write("all.py", HANDLERS)
    service.start()
    yield service
    service.close()


def last(service: Service, seq: int) -> dict[str, Any]:
    """The final result of an event's only run."""
    run = service.run_of(seq)
    (item,) = [
        r for r in service.results() if r["run"] == run["id"] and r["kind"] not in {"partial", "failed"}
    ]
    return item


def test_a_handler_gets_the_event_and_its_value_is_the_result(service: Service) -> None:
    receipt = service.publish(
        "plain", {"n": [1, None, "ø"]}, source="/shop", subject="s", colour="red", size=3
    )
    item = last(service, receipt["seq"])
    assert item["kind"] == "succeeded"
    assert item["data"] == {
        "data": {"n": [1, None, "ø"]},
        "type": "plain",
        "source": "/shop",
        "subject": "s",
        "attributes": {"colour": "red", "size": 3, "correlationid": item["event"]["id"]},
        "handler": "plain",
        "attempt": 1,
    }
    assert item["event"]["seq"] == receipt["seq"]
    assert item["completes"] == {"succeeded": 1}


@pytest.mark.parametrize(
    ("type_", "data", "value"),
    [
        ("lone", [1], [1]),
        ("async", "x", ["x", "coroutine"]),
        ("agenerator", None, None),
        ("second", None, 2),
        ("later", None, "came back"),
    ],
)
def test_every_kind_of_target_runs(service: Service, type_: str, data: Any, value: Any) -> None:
    item = last(service, service.publish(type_, data)["seq"])
    assert (item["kind"], item["data"]) == ("succeeded", value)


def test_a_generator_delivers_progress_and_values_while_it_runs(service: Service) -> None:
    with service.subscribed(types=["generator"]) as socket:
        service.publish("generator")
        got = items(socket, 5)
    assert [(i["kind"], i["index"], i["data"]) for i in got] == [
        ("partial", 0, {"progress": 0.5, "note": "half"}),
        ("partial", 1, {"page": 0}),
        ("partial", 2, {"page": 1}),
        ("partial", 3, {"page": 2}),
        ("succeeded", None, "done"),
    ]


def test_an_async_generator_delivers_its_values(service: Service) -> None:
    with service.subscribed(types=["agenerator"]) as socket:
        service.publish("agenerator")
        assert [(i["kind"], i["data"]) for i in items(socket, 4)] == [
            ("partial", 0), ("partial", 1), ("partial", 2), ("succeeded", None)
        ]  # fmt: skip


def test_bytes_go_in_and_out_as_base64(service: Service) -> None:
    receipt = service.ok("POST", "/v1/events", {"type": "bytes", "data_base64": "AP8="})
    item = last(service, receipt["seq"])
    assert item["data_base64"] == "AP8h"
    assert "data" not in item
    assert service.ok("GET", f"/v1/events/{receipt['seq']}")["data_base64"] == "AP8="


def test_what_it_prints_is_kept_with_the_attempt(service: Service) -> None:
    run = service.run_of(service.publish("print")["seq"])
    log = run["attempts"][0]["log"]
    assert "out here" in log
    assert "err here" in log
    assert "log here" in log


def test_an_exception_is_retried_until_the_run_is_dead(service: Service) -> None:
    with service.subscribed(types=["raise"]) as socket:
        seq = service.publish("raise")["seq"]
        got = items(socket, 2)
    assert [(i["kind"], i["error"]) for i in got] == [
        ("failed", {"type": "ValueError", "message": "attempt 1"}),
        ("dead", {"type": "ValueError", "message": "attempt 2"}),
    ]
    assert got[1]["completes"] == {"dead": 1}
    run = service.run_of(seq)
    assert (run["state"], run["attempt"], run["max_attempts"]) == ("dead", 2, 2)
    assert [a["outcome"] for a in run["attempts"]] == ["failed", "failed"]
    assert "raise ValueError" in run["attempts"][1]["error"]["traceback"]


@pytest.mark.parametrize(
    ("type_", "error", "word"),
    [
        ("fail", "Fail", "no use"),
        ("exit", "SystemExit", "3"),
        (
            "unencodable",
            "NotEncodable",
            ": .items[3].price is a complex",
        ),
        (
            "published",
            "NotEncodable",
            "published as 'never': .items[0] is a decimal",
        ),
        ("nan", "NotEncodable", "nan"),
        ("slow", "Timeout", "0.5"),
    ],
)
def test_a_run_that_cannot_succeed_is_dead_and_says_why(
    service: Service, type_: str, error: str, word: str
) -> None:
    item = last(service, service.publish(type_)["seq"])
    assert item["kind"] == "dead"
    assert item["error"]["type"] == error
    assert word in item["error"]["message"].lower()
    assert item["attempt"] == 1


def test_values_of_pythons_types_reach_subscribers_in_their_json_form(service: Service) -> None:
    item = last(service, service.publish("forms")["seq"])
    assert item["data"] == {"when": "2026-01-02T03:04:05Z", "total": "1.50", "7": [1, [2, 3]]}


def test_a_crash_costs_its_own_attempts_only(service: Service) -> None:
    with service.subscribed(types=["die", "lone"]) as socket:
        died = service.publish("die")["seq"]
        others = [service.publish("lone", n)["seq"] for n in range(20)]
        got = items_until(socket, lambda i: i["event"]["seq"] == died and i["kind"] == "dead")
        while sum(item["kind"] == "succeeded" for item in got) < len(others):
            got += items(socket, 1)  # some may be lost first
    assert [i["kind"] for i in got if i["event"]["seq"] == died] == ["failed", "dead"]
    assert "7" in next(i for i in got if i["kind"] == "dead")["error"]["message"]
    assert sorted(i["event"]["seq"] for i in got if i["kind"] == "succeeded") == others


def test_events_that_handlers_publish_form_a_tree_that_completes_once(service: Service) -> None:
    with service.subscribed(types=["chain.**"]) as socket:
        root = service.publish("chain.start", correlationid="c-1")
        got = items_until(socket, lambda i: i["completes"] is not None)
    assert len(got) == 4
    assert got[-1]["completes"] == {"succeeded": 3, "dead": 1}
    assert {i["event"]["correlationid"] for i in got} == {"c-1"}
    tree = service.ok("GET", f"/v1/events/{root['seq']}/tree")
    first, second = tree["events"]
    assert (first["event"]["type"], first["event"]["subject"]) == ("chain.next", "x")
    assert first["event"]["source"] == "/handlers/chain_start"
    assert first["event"]["causationid"] == tree["event"]["id"]
    assert first["events"][0]["event"]["type"] == "chain.end"
    assert second["runs"][0]["state"] == "dead"
    assert second["events"] == []


def test_a_failed_attempt_publishes_nothing(service: Service) -> None:
    root = service.publish("halfway")
    service.finished(root["seq"])
    assert service.ok("GET", f"/v1/events/{root['seq']}/tree")["events"] == []


def test_a_dead_run_can_be_retried_by_hand(service: Service) -> None:
    seq = service.publish("fail")["seq"]
    run = service.run_of(seq)
    service.ok("POST", f"/v1/runs/{run['id']}/retry")
    again = until(lambda: (r := service.run_of(seq))["attempt"] == 2 and r, "the second attempt")
    assert (again["state"], again["max_attempts"]) == ("dead", 6)
    assert [i["completes"] for i in service.results() if i["run"] == run["id"]] == [{"dead": 1}, None]


def test_a_running_run_can_be_cancelled(service: Service) -> None:
    service.ok("PATCH", "/v1/handlers/slow", {"timeout": 60})
    with service.subscribed(types=["slow"]) as socket:
        seq = service.publish("slow")["seq"]
        run = until(lambda: [r for r in service.runs(event=seq) if r["state"] == "running"], "the run")[0]
        assert service.ok("POST", f"/v1/runs/{run['id']}/cancel")["state"] == "cancelled"
        (item,) = items(socket, 1)
    assert (item["kind"], item["error"]["type"]) == ("cancelled", "Cancelled")
    assert service.post(f"/v1/runs/{run['id']}/cancel").status_code == 409
    service.ok("PATCH", "/v1/handlers/slow", {"timeout": None})


def test_an_event_is_cancelled_with_all_that_came_of_it(service: Service) -> None:
    service.ok("POST", "/v1/handlers/chain_next/pause")
    root = service.publish("chain.start")["seq"]
    until(lambda: service.ok("GET", f"/v1/events/{root}/tree")["events"], "its events")
    with service.subscribed(types=["chain.*"]) as socket:
        assert service.ok("POST", f"/v1/events/{root}/cancel")["runs"][0]["state"] == "succeeded"
        got = items(socket, 2)
    assert [i["kind"] for i in got] == ["cancelled", "cancelled"]
    assert got[-1]["completes"] == {"succeeded": 1, "cancelled": 2}
    assert service.post(f"/v1/events/{root}/cancel").status_code == 409
    service.ok("POST", "/v1/handlers/chain_next/resume")


def test_a_client_publishes_and_subscribes_on_one_socket(service: Service) -> None:
    with service.connect() as socket:
        say(socket, op="subscribe", id="a", types=["lone"])
        say(socket, op="subscribe", id="b", handlers=["plain"], kinds=["completed"])
        assert {hear(socket)["id"], hear(socket)["id"]} == {"a", "b"}
        say(socket, op="publish", ref="r", event={"type": "lone", "data": 5})
        answer = hear(socket)
        assert (answer["op"], answer["ref"], answer["duplicate"]) == ("published", "r", False)
        assert (frame := hear(socket))["id"] == "a"
        assert frame["items"][0]["data"] == 5
        say(socket, op="publish", ref="q", event={"type": "plain"})
        got = {hear(socket)["op"], hear(socket)["op"]}
        assert got == {"published", "results"}


def test_handlers_run_outside_the_gateway(service: Service) -> None:
    assert service.process is not None
    pid = last(service, service.publish("pid")["seq"])["data"]
    assert pid not in {service.process.pid, os.getpid()}
    assert service.run_of(service.publish("pid")["seq"])["attempts"][0]["pool"] == service.options["pool"]


def test_priority_goes_first_and_deliverat_waits(service: Service) -> None:
    service.ok("POST", "/v1/handlers/lone/pause")
    low = service.publish("lone", "low", priority=1)["seq"]
    high = service.publish("lone", "high", priority=9)["seq"]
    later = service.publish("lone", "later", deliverat="2999-01-01T00:00:00Z")["seq"]
    with service.subscribed(types=["lone"]) as socket:
        gone = service.publish("lone", "gone", expirytime="2020-01-01T00:00:00Z")["seq"]
        until(lambda: service.run_of(gone)["state"] == "cancelled", "expiry")
        service.ok("PATCH", "/v1/handlers/lone", {"concurrency": 1, "paused": False})
        got = [i for i in items(socket, 3) if i["kind"] == "succeeded"]
    started = {i["event"]["seq"]: service.run_of(i["event"]["seq"])["attempts"][0]["started_at"] for i in got}
    assert started[high] <= started[low]
    (waiting,) = service.ok("GET", f"/v1/events/{later}")["runs"]
    assert (waiting["state"], waiting["available_at"]) == ("available", "2999-01-01T00:00:00.000000Z")
    service.ok("POST", f"/v1/runs/{waiting['id']}/cancel")
    service.ok("PATCH", "/v1/handlers/lone", {"concurrency": None})
