"""Limits of one API key, whatever it speaks: HTTP, NDJSON, WebSockets, event streams."""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosed

from .service import PATIENCE, Service, hear, say, until
from .test_access import busway, made

ELSEWHERE = "192.0.2.1"  # so the tests, which are on loopback, have limits
QUOTA = 400
NDJSON = {"Content-Type": "application/x-ndjson"}


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(
        tmp_path_factory.mktemp("limits"), workers=1, key_rate=f"{QUOTA}/s", key_connections=2,
        key_subscriptions=3, key_bytes=1_000_000, unlimited_address=ELSEWHERE, address_rate="1000000/s",
    )  # fmt: skip
    service.key = service.admin = busway(service, "keys", "create", "me", "--create")
    service.start()
    yield service
    service.close()


@pytest.fixture
def limited(service: Service) -> Iterator[Service]:
    """The gateway, with a key that has used nothing yet. All is done on one node: limits are those of one."""
    service.key = service.admin
    service.key = made(service, "new", "publish", "subscribe", "handlers:write")["key"]
    beside, service.beside = service.beside, None
    yield service
    service.beside, service.key = beside, service.admin


def shown(answer: httpx.Response) -> dict[str, str]:
    """Both policies of a response, by name."""
    fields = answer.headers["RateLimit"].split(", ")
    policies = answer.headers["RateLimit-Policy"].split(", ")
    assert sorted(policies) == ['"address";q=1000000;w=1', f'"key";q={QUOTA};w=1']
    return {field.split('"')[1]: field for field in fields}


def test_requests_of_a_key(limited: Service) -> None:
    one = limited.post("/v1/events", {"type": "t"})
    assert one.status_code == 202
    assert shown(one)["key"].startswith('"key";r=')
    assert shown(limited.get("/v1/events"))["address"].startswith('"address";r=')
    many = limited.post("/v1/events", [{"type": "t"}] * 10_000)
    assert many.status_code == 202
    assert shown(many)["key"].startswith('"key";r=0;t=')
    for answer in (
        limited.post("/v1/events", {"type": "t"}),
        limited.post("/v1/events", {"type": "t"}),  # now its head is known
        limited.get("/v1/events"),
        limited.request("POST", "/v1/events", content=b"{}", headers=NDJSON),
    ):
        assert answer.status_code == 429, answer.text
        assert 1 <= int(answer.headers["Retry-After"]) <= 10_000 // QUOTA
        assert shown(answer)["key"].startswith('"key";r=0;t=')
        assert answer.json()["title"] == "Too many requests"


def test_lines_and_frames_are_taken_more_slowly_and_not_refused(limited: Service) -> None:
    began = time.monotonic()
    lines = b"".join(b'{"type":"t","data":%d}\n' % n for n in range(1_200))  # two batches
    answer = limited.request("POST", "/v1/events", content=lines, headers=NDJSON)
    assert answer.json()["accepted"] == 1_200
    with limited.connect() as opened:
        for n in range(200):
            say(opened, op="publish", ref=n, event={"type": "t"})
        assert {hear(opened)["op"] for _ in range(200)} == {"published"}
    assert time.monotonic() - began > (1_200 + 200 - QUOTA) / QUOTA - 0.2


def sse(service: Service) -> Any:
    headers = {"Authorization": f"Bearer {service.key}"}
    return service.client.stream("GET", f"{service.url}/v1/subscribe/sse", headers=headers)


def test_streams_and_subscriptions_of_a_key(limited: Service) -> None:
    with limited.connect() as first, sse(limited) as second:
        say(first, op="subscribe", id="a")
        assert hear(first)["op"] == "subscribed"
        with pytest.raises(ConnectionClosed) as closed, limited.connect() as third:
            third.recv(timeout=PATIENCE)
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1013
        with sse(limited) as fourth:
            assert (fourth.status_code, fourth.headers["Retry-After"]) == (429, "1")
        assert second.status_code == 200
        say(first, op="subscribe", id="b")  # the event stream has one, too
        assert hear(first)["op"] == "subscribed"
        say(first, op="subscribe", id="c")
        assert (error := hear(first))["code"] == "too_many"
        assert "3 subscriptions" in error["detail"]
        say(first, op="unsubscribe", id="a")
        assert hear(first)["op"] == "unsubscribed"
        say(first, op="subscribe", id="c")
        assert hear(first)["op"] == "subscribed"

    def again() -> bool:
        with limited.connect() as opened:
            try:
                say(opened, op="subscribe", id="a")
                return hear(opened)["op"] == "subscribed"
            except ConnectionClosed:  # the gateway has not noticed yet that the others are closed
                return False

    until(again, "the connections to be free again")


def test_bytes_of_a_key_and_what_the_metrics_say(limited: Service) -> None:
    def half(connection: Any, path: str) -> None:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {limited.key}\r\n"
        head += "Content-Type: application/json\r\nContent-Length: 900000\r\n\r\n"
        connection.sendall(head.encode() + b" " * 600_000)

    def reached() -> dict[str, float]:
        text = limited.request("GET", "/metrics", headers={}).text
        lines = [line for line in text.splitlines() if line.startswith("busway_limits_reached_total")]
        return {line.split('"')[1]: float(line.split()[-1]) for line in lines}

    port = int(limited.url.rpartition(":")[2])
    for path in ("/v1/events", "/v1/handlers"):
        with (
            socket.create_connection(("127.0.0.1", port), PATIENCE) as one,
            socket.create_connection(("127.0.0.1", port), PATIENCE) as other,
        ):
            half(one, path)
            half(other, path)
            (refused, *_), _, _ = select.select([one, other], [], [], PATIENCE)  # the one that came last
            assert b"429" in refused.recv(1000)
    limited.key = limited.admin
    found = reached()
    assert found["key_bytes"] >= 2
    assert {"key_rate", "key_connections", "address_rate", "body_timeout", "head_size"} <= found.keys()
    assert json.loads(limited.get("/healthz").text) == {"status": "alive"}
