"""Tickets and allowed origins of a running gateway, with keys and without."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from .service import PATIENCE, Service, hear, items, say

HANDLER = "from busway import handler\n\n@handler('t')\ndef ok(event):\n    return 1\n"
PAGE = "https://app.example"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = Service(tmp_path_factory.mktemp("keyed"), allow_origin=f"{PAGE},http://other.example:9000")
    made.write("code.py", HANDLER)
    made.start()
    made.key = key(made, "admin")
    yield made
    made.close()


def key(service: Service, *scopes: str) -> str:
    text: str = service.ok("POST", "/v1/keys", {"name": "k", "scopes": scopes})["key"]
    return text


def ticket(service: Service, of: str | None = None, **headers: str) -> str:
    known = {"Authorization": f"Bearer {of or service.key}"} | headers
    answer = service.client.post(f"{service.url}/v1/tickets", headers=known)
    assert answer.status_code == 201, answer.text
    text: str = answer.json()["ticket"]
    return text


def page_socket(service: Service, query: str, **more: Any) -> ClientConnection:
    """A socket as a page opens it: no key."""
    return connect(service.url.replace("http", "ws", 1) + "/v1/subscribe" + query, **more)


def closed(socket: ClientConnection) -> tuple[int, str]:
    with contextlib.suppress(ConnectionClosed):
        while True:
            socket.recv(timeout=PATIENCE)
    return socket.close_code or 0, socket.close_reason or ""


def test_a_ticket_says_when_it_ends_and_is_kept_nowhere(service: Service) -> None:
    answer = service.post("/v1/tickets")
    assert (answer.status_code, answer.headers["cache-control"]) == (201, "no-store")
    left = datetime.fromisoformat(answer.json()["expires_at"]) - datetime.now(UTC)
    assert timedelta(seconds=0) < left <= timedelta(seconds=30)


def test_a_ticket_opens_one_socket(service: Service) -> None:
    text = ticket(service)
    with page_socket(service, f"?ticket={text}") as socket:
        say(socket, op="subscribe", id="s")
        assert hear(socket)["op"] == "subscribed"
        service.publish("t")
        assert items(socket, 1)[0]["data"] == 1
    with page_socket(service, f"?ticket={text}") as socket:
        code, reason = closed(socket)
        assert code == 4401
        assert "was used" in reason


def test_a_ticket_goes_with_the_one_line_form(service: Service) -> None:
    with page_socket(service, f"?types=t&ticket={ticket(service)}") as socket:
        assert (hear(socket)["id"], service.publish("t")["runs"]) == ("default", 1)
        assert items(socket, 1)[0]["event"]["type"] == "t"


@pytest.mark.parametrize(
    ("query", "says"),
    [("", "missing API key"), ("?ticket=bwt_x", "unknown ticket"), ("?ticket=", "unknown ticket")],
)
def test_without_a_good_ticket_the_socket_closes_with_4401(service: Service, query: str, says: str) -> None:
    with page_socket(service, query) as socket:
        code, reason = closed(socket)
        assert code == 4401
        assert says in reason


def test_a_key_in_a_query_string_is_refused_also_beside_a_ticket(service: Service) -> None:
    with page_socket(service, f"?key={service.key}&ticket={ticket(service)}") as socket:
        assert closed(socket)[0] == 4400


def test_a_ticket_has_the_scopes_of_its_key(service: Service) -> None:
    text = ticket(service, key(service, "publish"))
    with page_socket(service, f"?ticket={text}") as socket:
        say(socket, op="publish", ref="r", event={"type": "t"})
        assert hear(socket)["op"] == "published"
        say(socket, op="subscribe", id="s")
        assert hear(socket)["code"] == "not_allowed"


def test_a_revoked_key_ends_its_tickets_and_the_sockets_they_opened(service: Service) -> None:
    mine = key(service, "subscribe")
    used, unused = ticket(service, mine), ticket(service, mine)
    number = int(mine.split("_")[1])
    with page_socket(service, f"?ticket={used}&after=latest") as socket:
        assert hear(socket)["op"] == "subscribed"
        assert service.request("DELETE", f"/v1/keys/{number}").status_code == 204
        assert closed(socket)[0] == 4401
    with page_socket(service, f"?ticket={unused}") as socket:
        assert closed(socket)[0] == 4401


def test_a_ticket_needs_a_key_and_takes_no_fields(service: Service) -> None:
    assert service.client.post(f"{service.url}/v1/tickets").status_code == 401
    assert service.post("/v1/tickets", {}).status_code == 201
    assert service.post("/v1/tickets", {"key": 1}).status_code == 422
    assert service.get("/v1/tickets").status_code == 405


def test_a_ticket_is_no_key_elsewhere(service: Service) -> None:
    text = ticket(service)
    for headers in ({}, {"Authorization": f"Bearer {text}"}):
        answer = service.client.get(f"{service.url}/v1/events?ticket={text}", headers=headers)
        assert answer.status_code == 401


def test_a_page_of_an_allowed_origin_asks_first_and_reads_every_answer(service: Service) -> None:
    asks = {
        "Origin": PAGE,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    unasked = service.get("/v1/events")  # caches must not give its answer to a page
    assert (unasked.headers["vary"], "access-control-allow-origin" in unasked.headers) == ("Origin", False)
    for path in service.ok("GET", "/openapi.json")["paths"]:
        answer = service.client.options(service.url + path, headers=asks)
        assert answer.status_code == 204, answer.text
        assert answer.headers["access-control-allow-origin"] == PAGE
        assert "access-control-allow-credentials" not in answer.headers
        assert "POST" in answer.headers["access-control-allow-methods"]
        assert answer.headers["access-control-allow-headers"] == "authorization,content-type"
        assert "Origin" in answer.headers["vary"]
    for answer, status in (
        (service.post("/v1/tickets", headers={"Origin": PAGE}), 201),
        (service.post("/v1/events", {"type": "t"}, headers={"Origin": PAGE}), 202),
        (service.client.post(f"{service.url}/v1/tickets", headers={"Origin": PAGE}), 401),
        (service.post("/v1/events", {"kind": "t"}, headers={"Origin": "http://OTHER.example:9000"}), 422),
    ):
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"].lower() in {PAGE, "http://other.example:9000"}
        assert "Retry-After" in answer.headers["access-control-expose-headers"]
        assert "access-control-allow-credentials" not in answer.headers
        assert "Origin" in answer.headers["vary"]


@pytest.mark.parametrize("origin", ["https://evil.example", "http://app.example", f"{PAGE}:8443", "null"])
def test_pages_of_other_origins_are_refused(service: Service, origin: str) -> None:
    asks = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    for answer in (
        service.client.options(f"{service.url}/v1/tickets", headers=asks),
        service.post("/v1/tickets", headers={"Origin": origin}),
    ):
        assert answer.status_code == 403
        assert "--allow-origin" in answer.json()["detail"]
        assert "access-control-allow-origin" not in answer.headers
    with pytest.raises(InvalidStatus), page_socket(service, f"?ticket={ticket(service)}", origin=origin):
        pass


def test_a_page_of_an_allowed_origin_opens_a_socket(service: Service) -> None:
    text = ticket(service, Origin=PAGE)
    with page_socket(service, f"?ticket={text}&after=latest", origin=PAGE) as socket:
        assert hear(socket)["op"] == "subscribed"


def test_an_open_gateway_gives_tickets_too(tmp_path: Path) -> None:
    service = Service(tmp_path)
    try:
        service.start()
        text, late = (service.post("/v1/tickets").json()["ticket"] for _ in range(2))
        with page_socket(service, f"?ticket={text}&after=latest") as socket:
            assert hear(socket)["op"] == "subscribed"
        service.key = key(service, "admin")
        with page_socket(service, f"?ticket={late}") as socket:
            assert closed(socket)[0] == 4401
    finally:
        service.close()
