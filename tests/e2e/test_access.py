"""Keys and scopes, the open gateway on loopback, foreign origins."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from .conftest import Serve
from .service import PATIENCE, Service, hear, say, until

HANDLER = "from busway import handler\n\n@handler('t')\ndef ok(event):\n    return 1\n"


def busway(service: Service, *words: str, status: int = 0) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "busway", *words, f"--database-url={service.database_url}"],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == status, done.stderr
    return done.stdout.strip() or done.stderr.strip()


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A gateway without a key."""
    service = Service(tmp_path_factory.mktemp("open"), workers=1)
    yield service.start()
    service.close()


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A gateway whose first key was made before it started."""
    service = Service(tmp_path_factory.mktemp("closed"), workers=1)
    service.write("all.py", HANDLER)
    service.write("secret_plans.py", "1 / 0\n")
    service.admin = busway(service, "keys", "create", "me", "--create")
    yield service.start()
    service.close()


def made(service: Service, name: str, *scopes: str, **more: Any) -> dict[str, Any]:
    """Have the administrator make a key."""
    held, service.key = service.key, service.admin
    key: dict[str, Any] = service.ok("POST", "/v1/keys", {"name": name, "scopes": scopes, **more})
    service.key = held
    return key


def test_an_open_gateway_answers_only_to_its_own_name(opened: Service) -> None:
    service = opened
    for headers in ({"Host": "evil.example"}, {"X-Forwarded-For": "1.2.3.4"}, {"Forwarded": "for=1.2.3.4"}):
        assert service.get("/v1/events", headers=headers).status_code == 421
    assert service.get("/v1/events", headers={"Origin": "http://evil.example"}).status_code == 403
    assert service.get("/v1/events", headers={"Origin": service.url}).status_code == 200
    with pytest.raises(InvalidStatus), service.connect(origin="http://evil.example"):  # type: ignore[arg-type]
        pass
    assert service.get("/v1/events").status_code == 200


def test_elsewhere_than_loopback_a_key_is_needed_to_start(make_service: Serve) -> None:
    service = make_service(host="0.0.0.0")
    process = service.launch()
    assert process.wait(PATIENCE) == 2
    assert process.stdout is not None
    process.stdout.close()
    assert "busway keys create" in service.log.read_text()
    assert "Traceback" not in service.log.read_text()
    service.key = busway(service, "keys", "create", "me", "--create")
    service.start()
    assert service.get("/v1/status").status_code == 200


ASKED: list[tuple[str, str, Any, str]] = [
    ("POST", "/v1/events", {"type": "t"}, "publish"),
    ("GET", "/v1/events", None, "subscribe"),
    ("GET", "/v1/events/1", None, "subscribe"),
    ("GET", "/v1/events/1/tree", None, "subscribe"),
    ("POST", "/v1/events/1/cancel", None, "handlers:write"),
    ("GET", "/v1/runs", None, "subscribe"),
    ("GET", "/v1/runs/1", None, "subscribe"),
    ("GET", "/v1/results", None, "subscribe"),
    ("GET", "/v1/subscribe/sse?kinds=none", None, "subscribe"),
    ("GET", "/v1/subscriptions", None, "subscribe"),
    ("DELETE", "/v1/subscriptions/ok", None, "subscribe"),
    ("POST", "/v1/runs/1/retry", None, "handlers:write"),
    ("POST", "/v1/runs/1/cancel", None, "handlers:write"),
    ("POST", "/v1/runs/retry", {}, "handlers:write"),
    ("GET", "/v1/handlers", None, "handlers:read"),
    ("GET", "/v1/handlers/ok", None, "handlers:read"),
    ("GET", "/v1/handlers/ok/revisions", None, "handlers:read"),
    ("GET", "/v1/targets", None, "handlers:read"),
    ("GET", "/v1/status", None, "handlers:read"),
    ("GET", "/metrics", None, "handlers:read"),
    ("POST", "/v1/handlers", {}, "handlers:write"),
    ("PATCH", "/v1/handlers/ok", {}, "handlers:write"),
    ("DELETE", "/v1/handlers/ok", None, "handlers:write"),
    ("POST", "/v1/handlers/ok/pause", None, "handlers:write"),
    ("POST", "/v1/handlers/ok/resume", None, "handlers:write"),
    ("POST", "/v1/handlers/ok/test", {}, "handlers:write"),
    ("POST", "/v1/keys", {}, "admin"),
    ("GET", "/v1/keys", None, "admin"),
    ("DELETE", "/v1/keys/99", None, "admin"),
]


def test_every_operation_asks_for_its_scope(closed: Service) -> None:
    service, service.key = closed, None
    keys = {
        scope: made(service, scope.replace(":", "-"), scope)["key"]
        for scope in ("publish", "subscribe", "handlers:read", "handlers:write", "admin")
    }
    document = service.ok("GET", "/openapi.json")
    told = {
        (m.upper(), p)
        for p, ms in document["paths"].items()
        for m in ms
        if p.startswith(("/v1/", "/metrics"))
    }
    asked = {
        (m, p.partition("?")[0].replace("/1", "/{id}").replace("/99", "/{id}").replace("/ok", "/{name}"))
        for m, p, _, _ in ASKED
    }
    asked.add(("POST", "/v1/tickets"))  # for any key: tests/e2e/test_tickets.py
    assert {(m, p.replace("{seq}", "{id}")) for m, p in told} == asked, "an operation is not in this test"
    for method, path, body, scope in ASKED:
        more = {} if body is None else {"json": body}
        service.key = None
        assert service.request(method, path, **more).status_code == 401, path
        for held, key in keys.items():
            service.key = key
            status = service.request(method, path, **more).status_code
            assert (status == 403) is (held not in {scope, "admin"}), (method, path, held, status)
            assert status != 401
    service.key = None
    for path in ("/healthz", "/readyz", "/docs", "/client.js", "/openapi.json", "/asyncapi.json"):
        assert service.get(path).status_code == 200


def test_only_who_may_read_handlers_gets_names_of_files_from_the_readiness_probe(closed: Service) -> None:
    service, service.key = closed, closed.admin
    reader, publisher = made(service, "reads", "handlers:read")["key"], made(service, "pub", "publish")["key"]
    for key in (None, "bw_9_x", publisher):
        service.key = key
        assert service.ok("GET", "/readyz")["trouble"] == [
            "handler files that do not import: 1 (GET /v1/status names them)"
        ]
    for key in (reader, service.admin):
        service.key = key
        assert service.ok("GET", "/readyz")["trouble"] == ["secret_plans.py does not import"]


NO_KEYS = (
    "",
    "Bearer",
    "Bearer x",
    "Bearer bw_1_wrong",
    "Bearer bw_9_x",
    "Bearer bw_" + "9" * 5000 + "_x",
    "Basic eDp5",
    "Bearer bw_²_x",
)


def test_without_a_key_requests_get_401_and_sockets_close_with_4401(closed: Service) -> None:
    service, service.key = closed, None
    for header in NO_KEYS:
        answer = service.get("/v1/events", headers={"Authorization": header.encode()})
        assert answer.status_code == 401, header
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    with service.connect() as socket, pytest.raises(ConnectionClosedError) as end:
        hear(socket)
    assert end.value.rcvd is not None
    assert end.value.rcvd.code == 4401


def test_a_revoked_key_is_out_and_its_sockets_close_with_4401(closed: Service) -> None:
    service, service.key = closed, None
    assert service.get("/v1/keys").status_code == 401
    page = made(service, "page", "subscribe")
    service.key = service.admin
    listed = service.ok("GET", "/v1/keys")["items"]
    assert [k["name"] for k in (listed[0], listed[-1])] == ["me", "page"]
    assert not any("key" in k or "digest" in k for k in listed)
    service.key = page["key"]
    with service.connect() as socket:
        say(socket, op="subscribe", id="s")
        assert hear(socket)["op"] == "subscribed"
        say(socket, op="publish", ref="r", event={"type": "t"})
        assert hear(socket)["code"] == "not_allowed"
        service.key = service.admin
        service.ok("DELETE", f"/v1/keys/{page['id']}")
        with pytest.raises(ConnectionClosedError) as end:
            hear(socket)
    assert end.value.rcvd is not None
    assert end.value.rcvd.code == 4401
    service.key = page["key"]
    assert service.get("/v1/events").status_code == 401


def test_the_first_key_ends_the_open_sockets(make_service: Serve) -> None:
    service = make_service(workers=1).start()
    with service.connect() as socket:
        say(socket, op="ping")
        assert hear(socket) == {"op": "pong"}
        service.ok("POST", "/v1/keys", {"name": "me", "scopes": ["admin"]})
        with pytest.raises(ConnectionClosedError) as end:
            hear(socket)
    assert end.value.rcvd is not None
    assert end.value.rcvd.code == 4401


def test_an_expired_key_ends_its_sockets(closed: Service) -> None:
    service = closed
    soon = datetime.now(UTC) + timedelta(seconds=4)
    service.key = made(service, "guest", "subscribe", expires_at=soon.isoformat())["key"]
    with service.connect() as socket, pytest.raises(ConnectionClosedError) as end:
        hear(socket)
    assert end.value.rcvd is not None
    assert end.value.rcvd.code == 4401


@pytest.mark.long
def test_a_head_that_was_admitted_before_is_looked_at_again_when_keys_change(make_service: Serve) -> None:
    service = make_service(workers=1).start()
    with httpx.Client(
        base_url=service.url, timeout=PATIENCE
    ) as keeping:  # one connection, the same head each time

        def publish(key: str | None = None) -> int:
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            return keeping.post("/v1/events", json={"type": "t"}, headers=headers).status_code

        assert [publish() for _ in range(3)] == [202] * 3
        service.key = service.ok("POST", "/v1/keys", {"name": "me", "scopes": ["admin"]})["key"]
        assert publish() == 401
        made = service.ok("POST", "/v1/keys", {"name": "device", "scopes": ["publish"]})
        soon = (datetime.now(UTC) + timedelta(seconds=10)).isoformat()
        guest = service.ok("POST", "/v1/keys", {"name": "guest", "scopes": ["publish"], "expires_at": soon})
        reader = service.ok("POST", "/v1/keys", {"name": "reader", "scopes": ["subscribe"]})
        assert [publish(made["key"]) for _ in range(3)] == [202] * 3
        assert [publish(guest["key"]) for _ in range(3)] == [202] * 3
        assert [publish(reader["key"]) for _ in range(3)] == [403] * 3
        service.ok("DELETE", f"/v1/keys/{made['id']}")
        assert publish(made["key"]) == 401
        until(lambda: publish(guest["key"]) == 401, "the guest's key to expire")


def test_a_running_gateway_notices_keys_of_the_command_line(make_service: Serve) -> None:
    service = make_service(workers=1).start()
    assert service.get("/v1/events").status_code == 200
    key = busway(service, "keys", "create", "me", "--create")
    until(lambda: service.get("/v1/events").status_code == 401, "the gateway to close")
    service.key = key
    assert service.get("/v1/events").status_code == 200
    assert "me" in busway(service, "keys", "list")
    busway(service, "keys", "revoke", "1")
    until(lambda: service.get("/v1/events").status_code == 401, "the key to be out")
    assert "no key 7" in busway(service, "keys", "revoke", "7", status=1)


def test_a_key_in_the_query_is_refused(opened: Service) -> None:
    with opened.connect("?token=bw_1_x") as socket:
        assert "Authorization" in hear(socket)["detail"]
        with pytest.raises(ConnectionClosedError) as end:
            hear(socket)
    assert end.value.rcvd is not None
    assert end.value.rcvd.code == 4400
