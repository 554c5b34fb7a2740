"""Keys that are limited to type patterns: what they publish and read, and what they do not."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import ClientConnection, connect

from .service import PATIENCE, Service, hear, say, until
from .test_access import busway, made

HANDLERS = """
from busway import handler

@handler("order.created", "bill.created")
def packs(event, ctx):
    ctx.publish("order.packed")
    ctx.publish("bill.sent")
    return event.type

@handler("bill.sent")
def thanks(event, ctx):
    ctx.publish("order.thanked")
"""
ORDERS = {"order.created", "order.packed", "order.thanked"}
OUTSIDE = {"type": "bill.created"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A gateway whose administrator has a key."""
    service = Service(tmp_path_factory.mktemp("types"), workers=1)
    service.write("all.py", HANDLERS)
    service.key = service.admin = busway(service, "keys", "create", "me", "--create")
    service.start()
    yield service
    service.close()


@pytest.fixture(scope="module")
def roots(service: Service) -> dict[str, dict[str, Any]]:
    """An order and a bill, whose trees are finished."""
    service.key = service.admin
    found = {kind: service.publish(f"{kind}.created", {"kind": kind}) for kind in ("order", "bill")}
    until(lambda: len(service.results(kinds="completed")) >= 2, "both trees")
    return found


@pytest.fixture
def limited(service: Service) -> Iterator[Service]:
    """The gateway, with a key for orders."""
    service.key = made(service, "orders", "publish", "subscribe", types=["order.**"])["key"]
    yield service
    service.key = service.admin


def total(service: Service) -> int:
    """How many events there are."""
    held, service.key = service.key, service.admin
    newest: int = service.ok("GET", "/v1/events?limit=1")["items"][0]["seq"]
    service.key = held
    return newest


Roots = dict[str, dict[str, Any]]


def test_only_events_of_its_types_are_stored(limited: Service, roots: Roots) -> None:
    service, before = limited, total(limited)
    assert service.publish("order.created.late")["seq"] == before + 1
    refused = [
        service.post("/v1/events", OUTSIDE),
        service.post("/v1/events", [{"type": "order.x"}, OUTSIDE, {"type": "order"}]),
        service.post("/v1/events", [{"type": "order.x", "data": "x" * 99}] * 9_998 + [OUTSIDE]),
        service.post("/v1/events", {"specversion": "1.0", "id": "1", "source": "/", **OUTSIDE},
                     headers={"Content-Type": "application/cloudevents+json"}),
        service.post("/v1/events", [{"specversion": "1.0", "id": "1", "source": "/", **OUTSIDE}],
                     headers={"Content-Type": "application/cloudevents-batch+json"}),
        service.request("POST", "/v1/events", content=b"x", headers={
            "ce-specversion": "1.0", "ce-id": "1", "ce-source": "/", "ce-type": "bill.created"}),
    ]  # fmt: skip
    assert [answer.status_code for answer in refused] == [403] * 6
    loc = [[each["loc"] for each in answer.json()["errors"]] for answer in refused]
    assert loc[0] == [["body", "type"]]
    assert loc[1] == [["body", 1, "type"], ["body", 2, "type"]]
    assert loc[2] == [["body", 9_998, "type"]]
    assert loc[4] == [["body", 0, "type"]]
    assert total(service) == before + 1


def test_lines_of_other_types_are_rejected(limited: Service, roots: Roots) -> None:
    service, before = limited, total(limited)
    lines = [{"type": "order.line"}, OUTSIDE, {"typ": "?"}, {"type": "order.line"}, OUTSIDE]
    answer = service.request(
        "POST", "/v1/events", content="\n".join(map(json.dumps, lines)),
        headers={"Content-Type": "application/x-ndjson"},
    ).json()  # fmt: skip
    assert answer["accepted"] == 2
    assert [each["line"] for each in answer["rejected"]] == [2, 3, 5]
    assert "'bill.created'" in answer["rejected"][0]["detail"]
    assert total(service) == before + 2


def test_a_producer_belongs_to_keys_with_the_same_patterns(limited: Service, roots: Roots) -> None:
    """Otherwise a key could have lines of others skipped that it may not even publish."""
    service, orders, before = limited, limited.key, total(limited)
    headers = {"Content-Type": "application/x-ndjson", "Producer-Id": "import-1"}

    def upload(type_: str, lines: int) -> tuple[int, int]:
        content = f'{{"type": "{type_}"}}\n' * lines
        answer = service.request("POST", "/v1/events", content=content, headers=headers)
        return answer.json()["accepted"], int(answer.headers["Producer-Seq"])

    assert upload("order.line", 3) == (3, 3)
    service.key = service.admin
    assert service.get("/v1/producers/import-1").status_code == 404
    assert upload("bill.line", 5) == (5, 5)
    service.key = made(service, "more orders", "publish", types=["order.**"])["key"]
    assert service.ok("GET", "/v1/producers/import-1")["lines"] == 3
    assert upload("order.line", 4) == (1, 4)  # a rotated key goes on
    service.key = orders
    assert total(service) == before + 9


def test_lists_leave_out_what_it_may_not_read(limited: Service, roots: Roots) -> None:
    service = limited

    def types(path: str) -> list[str]:
        found, after = [], ""
        while True:
            page = service.ok("GET", f"{path}{after}")
            found += [each["type"] for each in page["items"]]
            if page["next"] is None:
                return found
            after = f"&after={page['next']}"

    everything = types("/v1/events?limit=3")
    assert set(everything) >= ORDERS
    assert all(type_.startswith("order.") for type_ in everything)
    assert types("/v1/events?type=**&limit=1000") == everything
    assert types("/v1/events?type=bill.**") == types("/v1/events?type=bill.sent") == []
    assert set(types("/v1/events?type=*.packed")) == {"order.packed"}
    assert types("/v1/events?type=order.thanked&limit=1") == ["order.thanked"] * 2

    seqs = {each["event"] for each in service.runs()}
    assert seqs == {roots["order"]["seq"]}
    assert service.ok("GET", "/v1/runs?limit=1")["items"] == service.runs()[:1]
    assert service.runs(event=roots["bill"]["seq"]) == []
    assert {item["event"]["type"] for item in service.results()} == {"order.created"}
    assert service.results(types="bill.**") == []
    assert {i["event"]["type"] for i in service.ok("GET", "/v1/results?last=100")["items"]} == {
        "order.created"
    }
    assert service.get("/v1/status").status_code == 403


def test_what_it_may_not_read_is_like_what_does_not_exist(limited: Service, roots: Roots) -> None:
    service = limited
    order, bill = roots["order"]["seq"], roots["bill"]["seq"]
    assert service.ok("GET", f"/v1/events/{order}")["data"] == {"kind": "order"}
    for path in (f"/v1/events/{bill}", f"/v1/events/{bill}/tree"):
        answer, missing = service.get(path), service.get(path.replace(str(bill), "9999"))
        assert answer.status_code == missing.status_code == 404
        assert answer.text.replace(f"event {bill} ", "event 9999 ") == missing.text
    tree = service.ok("GET", f"/v1/events/{order}/tree")
    assert [child["event"]["type"] for child in tree["events"]] == ["order.packed"]
    run = service.ok("GET", f"/v1/events/{order}")["runs"][0]["id"]
    assert service.ok("GET", f"/v1/runs/{run}")["attempts"]
    service.key = service.admin
    other = service.ok("GET", f"/v1/events/{bill}")["runs"][0]["id"]
    service.key = made(service, "again", "subscribe", types=["order.created"])["key"]
    answer, missing = service.get(f"/v1/runs/{other}"), service.get("/v1/runs/9999")
    assert answer.text.replace(f"run {other}", "run 9999") == missing.text
    assert service.get(f"/v1/runs/{run}").status_code == 200


def received(socket: ClientConnection, last: str) -> list[str]:
    """The types of what a subscription gets up to the result of an event of type `last`."""
    found: list[str] = []
    while not found or found[-1] != last:
        frame = hear(socket)
        assert frame["op"] == "results", frame
        found += [item["event"]["type"] for item in frame["items"]]
    return found


def test_subscriptions_are_narrowed(limited: Service, roots: Roots) -> None:
    service = limited
    with service.connect() as socket:
        say(socket, op="subscribe", id="all", after="earliest")
        opened = hear(socket)
        assert opened["op"] == "subscribed"
        assert received(socket, "order.created") == ["order.created"]
        say(socket, op="publish", ref=1, event=OUTSIDE)
        refusal = hear(socket)
        while refusal["op"] == "results":
            assert refusal["items"] == []  # the cursor moves past what it does not see
            refusal = hear(socket)
        assert refusal["code"] == "not_allowed"
        say(socket, op="unsubscribe", id="all")
    service.key, orders = service.admin, service.key
    ticket_for = {"Authorization": f"Bearer {orders}"}
    ticket = service.client.post(service.url + "/v1/tickets", headers=ticket_for).json()["ticket"]
    service.key = None
    with service.connect(f"?ticket={ticket}&types=bill.**&types=order.*&after=latest") as socket:
        assert hear(socket)["op"] == "subscribed"
        service.key = service.admin
        service.publish("bill.created")
        service.publish("order.created")
        assert received(socket, "order.created") == ["order.created"]
    service.key = orders
    headers = {"Authorization": f"Bearer {orders}"}
    with service.client.stream(
        "GET", f"{service.url}/v1/subscribe/sse?after=earliest", headers=headers
    ) as stream:
        items = (json.loads(line[6:]) for line in stream.iter_lines() if line.startswith("data: {"))
        types = [item["event"]["type"] for _, item in zip(range(3), items, strict=False) if "event" in item]
    assert set(types) == {"order.created"}


def test_requests_that_ask_for_results_get_none_of_other_types(limited: Service, roots: Roots) -> None:
    service, bill, before = limited, roots["bill"], total(limited)
    wait = {"Prefer": "wait=60"}
    same = {"type": "order.created", "id": bill["id"], "source": bill["source"]}
    answer = service.post("/v1/events", same, headers=wait)
    assert answer.status_code == 202
    assert (answer.json()["seq"], answer.json()["duplicate"]) == (bill["seq"], True)
    once = {"Idempotency-Key": "one"}
    assert service.post("/v1/events", OUTSIDE, headers=once).status_code == 403
    assert service.post("/v1/events", OUTSIDE, headers={**once, **wait}).status_code == 403
    assert total(service) == before
    answer = service.post("/v1/events", {"type": "order.created"}, headers={**once, **wait})
    assert [item["data"] for item in answer.json()["results"]] == ["order.created"]


def test_a_long_poll_is_narrowed_and_ends_with_its_key(service: Service, roots: Roots) -> None:
    key = made(service, "polls", "subscribe", types=["order.**"])
    cursor = service.ok("GET", "/v1/results?last=1")["cursor"]
    answers: list[httpx.Response] = []

    def poll(url: str) -> None:
        headers = {"Authorization": f"Bearer {key['key']}"}
        params = {"after": cursor, "wait": 60}
        answers.append(httpx.get(f"{url}/v1/results", params=params, headers=headers, timeout=PATIENCE))

    def waiting() -> int:
        service.key = service.admin
        pages = [
            httpx.get(f"{url}/metrics", headers={"Authorization": f"Bearer {service.admin}"}).text
            for url in service.urls
        ]
        lines = [line for page in pages for line in page.splitlines()]
        return sum(line.startswith('busway_waiting_requests{kind="poll"} 1') for line in lines)

    def polled(meanwhile: Callable[[], Any]) -> list[httpx.Response]:
        answers.clear()
        threads = [threading.Thread(target=poll, args=(url,), daemon=True) for url in service.urls]
        for thread in threads:
            thread.start()
        until(lambda: waiting() == len(service.urls), "the polls")
        meanwhile()
        for thread in threads:
            thread.join(PATIENCE)
        return answers

    def publish() -> None:
        service.publish("bill.created")
        service.publish("order.created")

    for answer in polled(publish):
        assert [item["event"]["type"] for item in answer.json()["items"]] == ["order.created"]
    cursor = service.ok("GET", "/v1/results?last=1")["cursor"]
    ended = polled(lambda: service.ok("DELETE", f"/v1/keys/{key['id']}"))
    assert [answer.status_code for answer in ended] == [401] * len(service.urls)


def test_durable_names_belong_to_keys_with_the_same_patterns(limited: Service, roots: Roots) -> None:
    service, orders = limited, limited.key
    service.key = service.admin
    with service.connect() as socket:
        say(socket, op="subscribe", id="s", durable="everything", after="earliest")
        assert hear(socket)["op"] == "subscribed"
    for key in (orders, made(service, "again", "subscribe", types=["order.**"])["key"]):
        service.key = key
        with service.connect() as socket:
            say(socket, op="subscribe", id="s", durable="orders", after="earliest")
            assert hear(socket)["op"] == "subscribed"
            say(socket, op="subscribe", id="t", durable="everything")
            while (frame := hear(socket))["op"] == "results":
                pass
            assert frame["code"] == "bad_subscription"
        assert [each["name"] for each in service.ok("GET", "/v1/subscriptions")["items"]] == ["orders"]
        assert service.request("DELETE", "/v1/subscriptions/everything").status_code == 404
    until(
        lambda: service.request("DELETE", "/v1/subscriptions/orders").status_code == 204, "the sockets to end"
    )


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"types": []}, "types"),
        ({"types": ["order.*x"]}, "types"),
        ({"types": [1]}, "types"),
        ({"types": "order.**"}, "types"),
        ({"types": ["o"] * 101}, "types"),
        ({"types": ["o"], "scopes": ["publish", "handlers:write"]}, "types"),
        ({"types": ["o"], "scopes": ["admin"]}, "types"),
    ],
)
def test_keys_with_bad_patterns_are_not_made(service: Service, fields: dict[str, Any], where: str) -> None:
    service.key = service.admin
    answer = service.post("/v1/keys", {"name": "bad", "scopes": ["publish"], **fields})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["loc"] == ["body", where]


def test_the_command_line_makes_limited_keys(service: Service) -> None:
    service.key = service.admin
    words = (
        "keys",
        "create",
        "shop",
        "--scope",
        "publish",
        "--types",
        "order.**",
        "--types",
        "cart",
        "--json",
    )
    shown = json.loads(busway(service, *words).splitlines()[0])
    assert shown["types"] == ["order.**", "cart"]
    service.key = shown["key"]
    until(lambda: service.post("/v1/events", {"type": "cart"}).status_code == 202, "the key to be known")
    refused = until(  # the other of two nodes may learn it later
        lambda: (status := service.post("/v1/events", {"type": "order"}).status_code) != 401 and status,
        "the key to be known",
    )
    assert refused == 403
    assert "order.** cart" in busway(service, "keys", "list")
    assert "--types" in busway(service, "keys", "create", "shop", "--types", "order.**", status=2)


@pytest.mark.long
def test_a_rotated_key_is_valid_for_its_overlap(service: Service) -> None:
    service.key = service.admin
    old = made(service, "shop", "publish", "subscribe", types=["order.**"])
    new = service.ok("POST", f"/v1/keys/{old['id']}/rotate", {"overlap": 3})
    same = ("name", "scopes", "types", "expires_at", "revoked_at")
    assert [new[field] for field in same] == [old[field] for field in same]
    listed = {each["id"]: each for each in service.ok("GET", "/v1/keys")["items"]}
    assert listed[old["id"]]["expires_at"] is not None
    assert listed[new["id"]]["expires_at"] is None
    again = service.post(f"/v1/keys/{old['id']}/rotate", {"overlap": -1})
    assert again.json()["errors"][0]["loc"] == ["body", "overlap"]
    assert service.post("/v1/keys/9999/rotate", {}).status_code == 404
    ended = closings(service, old["key"])
    service.key = new["key"]
    with service.connect() as socket:
        assert ended() == [4401] * len(service.urls) * 2
        say(socket, op="ping")
        assert hear(socket) == {"op": "pong"}
    assert service.post("/v1/events", {"type": "order.new"}).status_code == 202
    service.key = service.admin
    assert service.post(f"/v1/keys/{old['id']}/rotate", {}).status_code == 409


def drain(socket: ClientConnection) -> None:
    """Receive frames until the connection closes."""
    while True:
        hear(socket)


def closings(service: Service, key: str) -> Callable[[], list[int]]:
    """Open a WebSocket and a stream on each node. Return a function that waits for their close codes."""
    codes: list[int] = []
    ready = threading.Barrier(len(service.urls) * 2 + 1)
    headers = {"Authorization": f"Bearer {key}"}

    def socket(url: str) -> None:
        with connect(f"{url.replace('http', 'ws', 1)}/v1/subscribe", additional_headers=headers) as socket:
            say(socket, op="subscribe", id="s")
            assert hear(socket)["op"] == "subscribed"
            ready.wait(PATIENCE)
            with pytest.raises(ConnectionClosed) as end:
                drain(socket)
        assert end.value.rcvd is not None
        codes.append(end.value.rcvd.code)

    def stream(url: str) -> None:
        with httpx.stream("GET", f"{url}/v1/subscribe/sse", headers=headers, timeout=PATIENCE) as stream:
            lines = stream.iter_lines()
            while next(lines) != "event: subscribed":
                pass
            ready.wait(PATIENCE)
            while next(lines) != "event: close":
                pass
            codes.append(json.loads(next(lines).removeprefix("data: "))["code"])

    threads = [
        threading.Thread(target=open_, args=(url,), daemon=True)
        for url in service.urls
        for open_ in (socket, stream)
    ]
    for thread in threads:
        thread.start()
    ready.wait(PATIENCE)

    def wait() -> list[int]:
        for thread in threads:
            thread.join(PATIENCE)
        return codes

    return wait


def test_a_revoked_key_loses_its_streams_on_every_node(service: Service) -> None:
    key = made(service, "leaves", "subscribe")
    ended = closings(service, key["key"])
    service.key = service.admin
    service.ok("DELETE", f"/v1/keys/{key['id']}")
    assert ended() == [4401] * len(service.urls) * 2


def test_the_last_use_of_keys_is_recorded(service: Service) -> None:
    unused, used = made(service, "unused", "publish"), made(service, "used", "publish")
    assert used["last_used_at"] is None
    service.key = used["key"]
    service.publish("t")
    service.key = service.admin

    def last_use(key: dict[str, Any]) -> Any:
        return next(k for k in service.ok("GET", "/v1/keys")["items"] if k["id"] == key["id"])["last_used_at"]

    assert until(lambda: last_use(used), "the use to be recorded") > used["created_at"]
    assert last_use(unused) is None
    before = commits(service)
    service.key = used["key"]
    for _ in range(200):
        assert service.ok("GET", "/v1/session")["key"] == used["id"]
    service.key = service.admin
    assert commits(service) - before < 200  # no write for each request; nodes write now and then


def commits(service: Service) -> float:
    """How many commits all nodes have made."""
    headers = {"Authorization": f"Bearer {service.key}"}
    texts = [service.client.get(f"{url}/metrics", headers=headers).text for url in service.urls]
    counts = [
        float(line.split()[-1])
        for text in texts
        for line in text.splitlines()
        if line.startswith("busway_commit_seconds_count")
    ]
    assert len(counts) == len(texts)
    return sum(counts)


def test_the_command_line_rotates_keys(service: Service) -> None:
    service.key = service.admin
    old = made(service, "robot", "publish")
    words = ("keys", "rotate", str(old["id"]), "--overlap", "60")
    service.key = busway(service, *words)
    until(lambda: service.post("/v1/events", {"type": "t"}).status_code == 202, "the key to be known")
    assert "9999" in busway(service, "keys", "rotate", "9999", status=1)
    assert "--overlap" in busway(service, *words[:3], "--overlap", "-1", status=2)
