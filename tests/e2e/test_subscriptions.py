"""Filtered and durable subscriptions on a real gateway: over kills and restarts, and in the list."""

from __future__ import annotations

import contextlib
import json
import os
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection

from .conftest import Serve
from .service import PATIENCE, Service, hear, items, say, until

SEED = int(os.environ.get("BUSWAY_TEST_SEED", "20261123"))
CODE = """
from busway import handler

@handler("n.**")
def echo(event):
    return event.data
"""
EVEN = {"exact": {"data.even": True}}


def opened(socket: ClientConnection, id_: str = "s", **fields: Any) -> dict[str, Any]:
    say(socket, op="subscribe", id=id_, **fields)
    answer = hear(socket)
    assert answer["op"] == "subscribed", answer
    return answer


def acknowledge(socket: ClientConnection, cursor: str, id_: str = "s") -> None:
    """Acknowledge, and wait until it is kept."""
    say(socket, op="ack", id=id_, cursor=cursor)
    say(socket, op="ping")
    while (frame := hear(socket))["op"] != "pong":
        assert frame["op"] == "results", frame


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder: Path = tmp_path_factory.mktemp("subscriptions")
    made = Service(folder, pool="thread", workers=1)
    made.write("n.py", CODE)
    made.start()
    yield made
    made.close()


def test_a_filter_on_the_payload_picks_results_live_and_from_the_log(service: Service) -> None:
    with service.subscribed(types=["n.f"], filter=EVEN) as socket:
        for n in range(10):
            service.publish("n.f", {"n": n, "even": n % 2 == 0})
        live = items(socket, 5)
        assert sorted(item["data"]["n"] for item in live) == [0, 2, 4, 6, 8]
    query = f"?types=n.f&after=earliest&filter={quote(json.dumps(EVEN))}"
    with service.connect(query) as socket:
        assert hear(socket)["id"] == "default"
        assert [item["cursor"] for item in items(socket, 5)] == [item["cursor"] for item in live]


def test_durable_subscriptions_are_listed_and_forgotten(service: Service) -> None:
    service.publish("n.d", 1)
    service.publish("n.d", 2)
    with service.connect() as socket:
        opened(socket, "list b", durable="list b", types=["never"], after="earliest")
        opened(socket, "list/a", durable="list/a", types=["n.d"], after="earliest")
        first = items(socket, 1)[0]
        acknowledge(socket, first["cursor"], "list/a")
        shown = {s["name"]: s for s in service.ok("GET", "/v1/subscriptions")["items"]}
        assert (shown["list/a"]["cursor"], shown["list/a"]["connected"]) == (first["cursor"], True)
        assert shown["list/a"]["behind"] == shown["list b"]["behind"] - int(first["cursor"].split("-")[1])
        assert shown["list b"]["acknowledged_at"] is None
        assert shown["list/a"]["acknowledged_at"] > shown["list/a"]["created_at"]
        page = service.get("/v1/subscriptions", params={"limit": 1}).json()
        rest = service.get("/v1/subscriptions", params={"after": page["next"]}).json()
        assert [s["name"] for s in page["items"] + rest["items"]] == sorted(shown)
        assert service.request("DELETE", "/v1/subscriptions/list%2Fa").status_code == 409
        say(socket, op="unsubscribe", id="list/a")
        say(socket, op="unsubscribe", id="list b")
        while hear(socket) != {"op": "unsubscribed", "id": "list b"}:
            pass
    until(  # another node may not know yet that it is free
        lambda: service.request("DELETE", "/v1/subscriptions/list%2Fa").status_code == 204,
        "it to be forgotten",
    )
    assert service.request("DELETE", "/v1/subscriptions/list%2Fa").status_code == 404
    assert [s["name"] for s in service.ok("GET", "/v1/subscriptions")["items"]] == ["list b"]
    with service.connect() as socket:
        assert opened(socket, durable="list/a", after="earliest")["cursor"].split("-")[1] == "0"


def test_ten_thousand_subscriptions_on_one_connection_leave_it_alive(service: Service) -> None:
    with service.connect() as socket:
        for n in range(10_000):
            say(socket, op="subscribe", id=str(n), types=["never"], filter={"exact": {"id": str(n)}})
        frames = [hear(socket) for _ in range(10_000)]
        assert {frame["op"] for frame in frames[:1000]} == {"subscribed"}
        assert {frame.get("code") for frame in frames[1000:]} == {"too_many"}
        say(socket, op="ping")
        assert hear(socket) == {"op": "pong"}
    until(lambda: service.ok("GET", "/v1/status")["subscribers"]["subscriptions"] == 0, "the end of them")


class Feed(threading.Thread):
    """Publishes numbers until told to end, again and again until each is safe."""

    def __init__(self, service: Service) -> None:
        super().__init__()
        self.service = service
        self.count = 0
        self.ending = threading.Event()

    def run(self) -> None:
        with httpx.Client(timeout=PATIENCE, verify=False) as client:
            while not self.ending.is_set():
                data = {"n": self.count, "even": not self.count % 2}
                event = {"type": "n.k", "id": str(self.count), "data": data}
                try:
                    answer = client.post(f"{self.service.url}/v1/events", json=event)
                except httpx.TransportError:
                    continue
                if answer.status_code == 202:
                    self.count += 1


@pytest.mark.long
def test_a_durable_name_goes_on_over_kills_and_restarts_while_results_pour_in(make_service: Serve) -> None:
    """Everything comes, in order, and nothing again that a pong said was kept."""
    chance = random.Random(SEED)
    print("BUSWAY_TEST_SEED", SEED)
    service = make_service(pool="thread", workers=1)
    service.write("n.py", CODE)
    service.start()
    feed = Feed(service)
    feed.start()
    log: list[str] = []  # cursors, in order, each once
    sure = 0  # how many of them were said to be kept
    try:
        for round_ in range(5):
            with service.connect() as socket:
                answer = opened(socket, durable="k", kinds=["succeeded"], filter=EVEN, after="earliest")
                assert answer["recovered"]
                sure = _follow(socket, log, sure, chance)
                if round_ % 3 == 1:
                    service.kill()
                elif round_ % 3 == 2:
                    service.terminate()
                    _until_closed(socket)
                    assert service._reap() == 0
            if service.process is None:
                service.start()
    finally:
        feed.ending.set()
        feed.join()
    service.publish("n.k", {"n": -1, "even": True})  # so that something is left to receive
    until(lambda: service.unfinished() == 0, "the runs that the kills left")
    whole = [item["cursor"] for item in service.results(kinds="succeeded") if item["data"]["even"]]
    with service.connect() as socket:
        opened(socket, durable="k", kinds=["succeeded"], filter=EVEN)
        while not log or log[-1] != whole[-1]:
            for item in hear(socket).get("items", []):
                _take(item, log, sure)
    assert log == whole
    assert len(log) >= feed.count // 2


def _follow(socket: ClientConnection, log: list[str], sure: int, chance: random.Random) -> int:
    """Take results, acknowledge some and have some of that confirmed; return how many surely are kept."""
    for _ in range(chance.randint(3, 10)):
        found = items(socket, 1)
        for item in found:
            _take(item, log, sure)
        if chance.random() < 0.6:
            item = chance.choice(found)
            place = log.index(item["cursor"]) + 1
            if place > sure and chance.random() < 0.5:
                say(socket, op="ack", id="s", cursor=item["cursor"])
                say(socket, op="ping")
                while (frame := hear(socket))["op"] != "pong":
                    assert frame["op"] == "results", frame
                    for other in frame["items"]:
                        _take(other, log, sure)
                sure = place
    return sure


def _take(item: dict[str, Any], log: list[str], sure: int) -> None:
    """Note an item: the next one, or one again that was not surely kept."""
    if item["cursor"] in log:
        assert log.index(item["cursor"]) >= sure, "it was acknowledged"
        return
    assert item["data"]["even"]
    assert not log or _number(item["cursor"]) > _number(log[-1])
    log.append(item["cursor"])


def _number(cursor: str) -> int:
    return int(cursor.split("-")[1])


def _until_closed(socket: ClientConnection) -> None:
    with contextlib.suppress(ConnectionClosed):
        while True:
            hear(socket)
    assert socket.protocol.close_code == 1012


def recipients(service: Service, seq: int) -> dict[str, dict[str, Any]]:
    """Return the subscriptions and names that have the result of an event, as the nodes see them together."""
    found: dict[str, dict[str, Any]] = {}
    for _ in range(2):  # each request goes to the next node
        answer = service.ok("GET", f"/v1/events/{seq}/subscribers")
        assert (answer["results"], answer["unfinished"], answer["truncated"]) == (1, 0, False)
        for each in answer["items"]:
            name = each["durable"] or each["id"]
            if name not in found or each["connection"] is not None:
                found[name] = each
    return found


def test_who_has_the_results_of_an_event_follows_from_their_positions(service: Service) -> None:
    before = service.publish("n.who", {"even": True})["seq"]
    service.finished(before)
    with service.connect() as socket, service.connect() as slow:
        opened(socket, "all", types=["n.who"])
        opened(socket, "odd", types=["n.who"], filter={"not": EVEN})
        opened(socket, "old", types=["n.who"], after="earliest")
        opened(slow, "mine", durable="who", types=["n.who"])
        seq = service.publish("n.who", {"even": True})["seq"]
        service.finished(seq)
        cursor = items(slow, 1)[-1]["cursor"]
        until(lambda: recipients(service, seq).get("all", {}).get("received"), "the result to be sent")
        found = recipients(service, seq)
        assert found.keys() >= {"all", "old", "who"}
        assert "odd" not in found, "its filter leaves the result out"
        result = service.results(types="n.who")[-1]
        assert found["all"]["pushed_at"] == result["time"] > found["all"]["since"]
        assert (found["who"]["selected"], found["who"]["received"], found["who"]["acknowledged"]) == (1, 1, 0)
        acknowledge(slow, cursor, "mine")
        who = recipients(service, seq)["who"]
        assert (who["acknowledged"], who["acknowledged_at"] is None) == (1, False)
        earlier = recipients(service, before)
        assert (earlier["all"]["received"], earlier["all"]["pushed_at"]) == (0, None), "it began later"
        assert earlier["who"]["acknowledged"] == 0, "the name was created later"
        until(lambda: recipients(service, before)["old"]["received"] == 1, "the log to be read")
        assert recipients(service, before)["old"]["pushed_at"] is None, "it read the log, some time"
    until(lambda: recipients(service, seq)["who"]["connection"] is None, "the connections to end")
    away = recipients(service, seq)["who"]
    assert (away["selected"], away["received"], away["acknowledged"]) == (None, None, 1)
    assert service.get("/v1/events/99999/subscribers").status_code == 404
    until(lambda: service.request("DELETE", "/v1/subscriptions/who").status_code == 204, "the name")
