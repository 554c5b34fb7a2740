"""Schedules on the real service: they fire once, whatever happens to it."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import threading
import time
from typing import Any

import pytest
from busway.domain.times import SECOND, from_text

from .cells import leader_of
from .conftest import Serve, Shared
from .service import Service, clean_environment, until

CODE = """
from busway import handler

@handler("tick.**")
def tick(event):
    return [event.id, event.source, event.time.isoformat(), event.data]
"""


@pytest.fixture
def service(shared_service: Shared) -> Service:
    return shared_service(CODE)


def make(service: Service, name: str, **fields: Any) -> dict[str, Any]:
    body = {"name": name, "event": {"type": f"tick.{name}"}, **fields}
    made: dict[str, Any] = service.ok("POST", "/v1/schedules", body)
    return made


def fired(service: Service, name: str) -> list[dict[str, Any]]:
    """The events of a schedule, oldest first."""
    found: list[dict[str, Any]] = service.get(
        "/v1/events", params={"source": f"/schedules/{name}", "limit": 1000}
    ).json()["items"]
    return found[::-1]


def times_of(events: list[dict[str, Any]]) -> list[int]:
    return [from_text(event["time"]) for event in events]


def test_a_schedule_fires_again_and_again(service: Service) -> None:
    made = make(
        service, "a", every="1s", catch_up="all", event={"type": "tick.a", "data": {"n": 1.5}, "subject": "x"}
    )
    until(lambda: len(fired(service, "a")) >= 3, "three firings")
    service.ok("DELETE", "/v1/schedules/a")
    events = fired(service, "a")
    expected = [from_text(firing) for firing in made["next"]][: len(events)]
    assert times_of(events)[: len(expected)] == expected
    assert expected[0] == from_text(made["created_at"]) + SECOND
    first = events[0]
    assert (first["source"], first["subject"], first["data"]) == ("/schedules/a", "x", {"n": 1.5})
    assert first["id"] == f"a@{first['time']}"
    (run,) = service.finished(first["seq"])["runs"]
    assert run["state"] == "succeeded"
    assert service.get("/v1/schedules/a").status_code == 404
    assert service.request("DELETE", "/v1/schedules/a").status_code == 404
    assert len(fired(service, "a")) == len(events)


def test_a_paused_schedule_does_not_fire_and_does_not_catch_up(service: Service) -> None:
    assert make(service, "p", every="1s", paused=True, catch_up="all")["next"] == []
    make(service, "clock", every="1s")
    until(lambda: len(fired(service, "clock")) >= 2, "the time of two firings")
    service.ok("DELETE", "/v1/schedules/clock")
    resumed = service.ok("POST", "/v1/schedules/p/resume")
    until(lambda: fired(service, "p"), "a firing")
    paused = service.ok("POST", "/v1/schedules/p/pause")
    assert (paused["paused"], paused["next"]) == (True, [])
    assert from_text(resumed["updated_at"]) < times_of(fired(service, "p"))[0]
    assert service.post("/v1/schedules/p/pause").status_code == 409
    assert service.post("/v1/schedules/p/run").status_code == 200
    by_hand = fired(service, "p")[-1]
    assert service.ok("GET", "/v1/schedules/p")["last_fired_at"] == by_hand["time"]
    assert service.finished(by_hand["seq"])["runs"][0]["state"] == "succeeded"
    assert service.ok("DELETE", "/v1/schedules/p") is None


def test_a_schedule_is_changed(service: Service) -> None:
    made = make(service, "c", cron="0 3 * * *", timezone="Europe/Berlin", description="nightly")
    assert [firing[14:] for firing in made["next"]] == ["00:00.000000Z"] * 5
    assert {firing[11:13] for firing in made["next"]} <= {"01", "02"}
    changed = service.ok("PATCH", "/v1/schedules/c", {"cron": None, "every": "6h", "timezone": None})
    assert (changed["cron"], changed["every"], changed["timezone"]) == (None, "6h", "UTC")
    assert from_text(changed["next"][0]) == from_text(changed["updated_at"]) + 6 * 3600 * SECOND
    again = service.ok("PATCH", "/v1/schedules/c", {"description": None, "event": {"type": "tick.other"}})
    assert (again["description"], again["event"], again["next"]) == (
        "",
        {"type": "tick.other"},
        changed["next"],
    )
    assert service.post("/v1/schedules", {**made, "next": []}).status_code == 422
    assert (
        service.post("/v1/schedules", {"name": "c", "every": "1s", "event": {"type": "t"}}).status_code == 409
    )
    assert service.request("PATCH", "/v1/schedules/c", json={"name": "d"}).status_code == 422
    assert service.request("PATCH", "/v1/schedules/c", json={"cron": "* * * * *"}).status_code == 422
    assert service.request("PATCH", "/v1/schedules/c", json={"event": None}).status_code == 422
    assert service.request("PATCH", "/v1/schedules/none", json={}).status_code == 404
    first, second = (service.ok("GET", f"/v1/schedules?limit=1{after}") for after in ("", "&after=b"))
    assert second["items"] == [again]
    assert first["items"][0]["name"] <= "c"
    service.ok("DELETE", "/v1/schedules/c")


def test_a_payload_keeps_its_text_and_odd_names_are_not_found(service: Service) -> None:
    data = b'{"n": 1.50, "big": 18446744073709551616}'
    body = b'{"name": "raw", "every": "6h", "event": {"type": "tick.raw", "data": %b}}' % data
    headers = {"Content-Type": "application/json"}
    made = service.request("POST", "/v1/schedules", content=body, headers=headers)
    assert data in made.content
    service.ok(
        "PATCH", "/v1/schedules/raw", {"description": "é", "event": {"type": "tick.raw", "data": "\u0000"}}
    )
    changed = service.ok("PATCH", "/v1/schedules/raw", {"every": "7h"})
    assert (changed["description"], changed["event"]["data"]) == ("é", "\0")
    service.ok("POST", "/v1/schedules/raw/run")
    assert fired(service, "raw")[-1]["data"] == "\0"
    service.ok("DELETE", "/v1/schedules/raw")
    for name in ("%C3%A9", "x" * 300, "%FF", "RAW"):
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/run")):
            assert service.request(method, f"/v1/schedules/{name}{path}").status_code == 404, (method, name)
        assert service.get(f"/v1/schedules?after={name}").status_code == 200


EVENT = {"type": "tick.bad"}
TIME = "2026-01-31T12:00:00Z"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "b", "event": EVENT}, "cron"),
        ({"name": "b", "event": EVENT, "cron": None, "every": None}, "cron"),
        ({"name": "b", "event": EVENT, "cron": "* * * * *", "every": "1s"}, "cron"),
        ({"name": "b", "event": EVENT, "cron": "0 0 31 2 *"}, "cron"),
        ({"name": "b", "event": EVENT, "cron": "whenever"}, "cron"),
        ({"name": "b", "event": EVENT, "cron": ""}, "cron"),
        ({"name": "b", "event": EVENT, "cron": " "}, "cron"),
        ({"name": "b", "event": EVENT, "cron": "*" * 300}, "cron"),
        ({"name": "b", "event": EVENT, "cron": 5}, "cron"),
        ({"name": "b", "event": EVENT, "every": "0s"}, "every"),
        ({"name": "b", "event": EVENT, "every": "0.5s"}, "every"),
        ({"name": "b", "event": EVENT, "every": "400d"}, "every"),
        ({"name": "b", "event": EVENT, "every": 30}, "every"),
        ({"name": "b", "event": EVENT, "every": "1s", "timezone": "Europe/Nowhere"}, "timezone"),
        ({"name": "b", "event": EVENT, "cron": "* * * * *", "timezone": "../../etc/passwd"}, "timezone"),
        ({"name": "b", "event": EVENT, "every": "1s", "catch_up": "some"}, "catch_up"),
        ({"name": "b", "event": EVENT, "every": "1s", "paused": "yes"}, "paused"),
        ({"name": "b", "event": EVENT, "every": "1s", "description": "\0"}, "description"),
        ({"name": "b", "event": EVENT, "every": "1s", "colour": "red"}, "colour"),
        ({"name": "B!", "event": EVENT, "every": "1s"}, "name"),
        ({"event": EVENT, "every": "1s"}, "name"),
        ({"name": "b", "every": "1s"}, "event"),
        ({"name": "b", "event": [], "every": "1s"}, "event"),
        ({"name": "b", "event": {}, "every": "1s"}, "event.type"),
        ({"name": "b", "event": {"type": "a b"}, "every": "1s"}, "event.type"),
        ({"name": "b", "event": {**EVENT, "id": "1"}, "every": "1s"}, "event.id"),
        ({"name": "b", "event": {**EVENT, "source": "/x"}, "every": "1s"}, "event.source"),
        ({"name": "b", "event": {**EVENT, "deliverat": TIME}, "every": "1s"}, "event.deliverat"),
        ({"name": "b", "event": {**EVENT, "data": "x" * 65_536}, "every": "1s"}, "event"),
        ({"name": "b", "event": {**EVENT, "BAD": 1}, "every": "1s"}, "event.BAD"),
    ],
)  # fmt: skip
def test_what_is_no_schedule(service: Service, body: dict[str, Any], field: str) -> None:
    answer = service.post("/v1/schedules", body)
    assert answer.status_code == 422, answer.text
    assert [".".join(map(str, error["loc"][1:])) for error in answer.json()["errors"]] == [field], answer.text
    assert service.get("/v1/schedules/b").status_code == 404


def test_null_is_the_default_and_a_field_that_is_missing_stays(service: Service) -> None:
    fields = ("cron", "timezone", "catch_up", "paused", "description")
    made = make(service, "nulls", every="6h", **dict.fromkeys(fields))
    assert [made[name] for name in fields] == [None, "UTC", "one", False, ""]
    changed = service.ok("PATCH", "/v1/schedules/nulls", {"catch_up": "all", "description": "x"})
    assert (changed["catch_up"], changed["next"]) == ("all", made["next"])
    again = service.ok("PATCH", "/v1/schedules/nulls", dict.fromkeys(fields))
    assert [again[name] for name in fields] == [None, "UTC", "one", False, ""]
    assert service.request("PATCH", "/v1/schedules/nulls", json={"every": None}).status_code == 422
    service.ok("DELETE", "/v1/schedules/nulls")


def test_a_name_is_made_once_however_many_ask_at_a_time(service: Service) -> None:
    answers: list[int] = []

    def create() -> None:
        body = {"name": "m", "cron": "0 0 1 1 *", "event": {"type": "tick.m"}}
        answers.append(service.post("/v1/schedules", body).status_code)

    threads = [threading.Thread(target=create) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [201, *[409] * 7]
    service.ok("DELETE", "/v1/schedules/m")


@pytest.mark.long
def test_missed_firings_after_a_kill(make_service: Serve) -> None:
    """The newest missed firing is less than a second old here, so it is in time for `none`, too."""
    service = make_service(workers=1)
    service.write("tick.py", CODE)
    service.start()
    names = ("one", "none", "all")
    for name in names:
        make(service, name, every="1s", catch_up=name)
    until(lambda: all(fired(service, name) for name in names), "a firing of each")
    service.kill()
    before = now() + 3 * SECOND
    until(lambda: now() > before, "three seconds")
    service.start()
    started = now()
    for name in names:
        until(lambda name=name: times_of(fired(service, name))[-1] > started, "a firing after the start")
        service.ok("POST", f"/v1/schedules/{name}/pause")
    for name in names:
        times = times_of(fired(service, name))
        gaps = [(later - earlier) // SECOND for earlier, later in itertools.pairwise(times)]
        assert min(gaps) >= 1
        assert max(gaps) >= 3 if name != "all" else set(gaps) == {1}
        for event in fired(service, name):
            assert len(service.finished(event["seq"])["runs"]) == 1


@pytest.mark.long
@pytest.mark.one_database("has a PostgreSQL server of its own")
def test_another_node_goes_on_when_the_leader_is_killed(nodes: list[Service]) -> None:
    running = nodes[:2]
    for node in running:
        node.start()
    leader = leader_of(running)
    other = next(node for node in running if node is not leader)
    make(other, "n", every="1s", catch_up="all")
    until(lambda: len(fired(other, "n")) >= 2, "two firings of the leader")
    leader.kill()
    before = len(fired(other, "n"))
    until(lambda: len(fired(other, "n")) >= before + 3, "three firings of the next one")
    other.ok("POST", "/v1/schedules/n/pause")
    times = times_of(fired(other, "n"))
    assert {later - earlier for earlier, later in itertools.pairwise(times)} == {SECOND}


def now() -> int:
    return time.time_ns() // 1000


def test_the_command_lists_schedules(service: Service) -> None:
    make(service, "listed", cron="0 3 * * *", timezone="Europe/Berlin")
    command = [sys.executable, "-m", "busway", "schedules", f"--url={service.url}"]
    shown = subprocess.run(command, capture_output=True, text=True, env=clean_environment(), check=True)
    head, row = shown.stdout.splitlines()
    assert head.split() == ["SCHEDULE", "EVENT", "FIRES", "ZONE", "NEXT", "LAST"]
    assert row.split()[:7] == ["listed", "tick.listed", "0", "3", "*", "*", "*"]
    as_json = subprocess.run(
        [*command, "--json"], capture_output=True, text=True, env=clean_environment(), check=True
    )
    assert json.loads(as_json.stdout) == service.ok("GET", "/v1/schedules/listed")
    service.ok("DELETE", "/v1/schedules/listed")
