"""Keys, tokens and scopes, the open gateway on loopback, foreign origins."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from busway.contract.keys import SCOPES
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from tests import forked
from tests.issuers import TokenIssuer

from .conftest import Serve
from .service import PATIENCE, Service, hear, say, until

HANDLER = "from busway import handler\n\n@handler('t')\ndef ok(event):\n    return 1\n"


def busway(service: Service, *words: str, status: int = 0) -> str:
    done = forked.run(
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
def issuer() -> Iterator[TokenIssuer]:
    with TokenIssuer() as running:
        yield running


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory, issuer: TokenIssuer) -> Iterator[Service]:
    """A gateway whose first key was made before it started. It accepts tokens, too."""
    service = Service(tmp_path_factory.mktemp("closed"), workers=1, **issuer.options)
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
    url = service.url
    assert service.client.get(f"{url}/v1/events", headers={"Origin": url}).status_code == 200
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
    ("GET", "/v1/events/1/subscribers", None, "subscribe handlers:read"),
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
    ("GET", "/v1/handlers/ok/revisions/1", None, "handlers:write"),
    ("GET", "/v1/targets", None, "handlers:read"),
    ("GET", "/v1/status", None, "subscribe handlers:read"),
    ("GET", "/v1/rates", None, "subscribe handlers:read"),
    ("GET", "/v1/subscribers", None, "subscribe handlers:read"),
    ("GET", "/metrics", None, "handlers:read"),
    ("POST", "/v1/handlers", {}, "handlers:write"),
    ("PATCH", "/v1/handlers/ok", {}, "handlers:write"),
    ("DELETE", "/v1/handlers/ok", None, "handlers:write"),
    ("POST", "/v1/handlers/ok/pause", None, "handlers:write"),
    ("POST", "/v1/handlers/ok/resume", None, "handlers:write"),
    ("POST", "/v1/handlers/ok/test", {}, "handlers:write"),
    ("POST", "/v1/handlers/ok/secret", None, "handlers:write"),
    ("GET", "/v1/audit", None, "admin"),
    ("POST", "/v1/keys", {}, "admin"),
    ("GET", "/v1/keys", None, "admin"),
    ("DELETE", "/v1/keys/99", None, "admin"),
    ("POST", "/v1/keys/99/rotate", {}, "admin"),
    ("POST", "/v1/handlers/ok/replay", {}, "handlers:write"),
    ("GET", "/v1/replays", None, "handlers:read"),
    ("GET", "/v1/replays/1", None, "handlers:read"),
    ("POST", "/v1/replays/1/cancel", None, "handlers:write"),
    ("GET", "/v1/replays/1/results", None, "subscribe"),
    ("POST", "/v1/schedules", {}, "handlers:write"),
    ("GET", "/v1/schedules", None, "handlers:read"),
    ("GET", "/v1/schedules/ok", None, "handlers:read"),
    ("PATCH", "/v1/schedules/ok", {}, "handlers:write"),
    ("DELETE", "/v1/schedules/ok", None, "handlers:write"),
    ("POST", "/v1/schedules/ok/pause", None, "handlers:write"),
    ("POST", "/v1/schedules/ok/resume", None, "handlers:write"),
    ("POST", "/v1/schedules/ok/run", None, "handlers:write"),
    ("GET", "/v1/producers/1", None, "publish"),
    ("POST", "/v1/sources", {}, "admin"),
    ("GET", "/v1/sources", None, "admin"),
    ("GET", "/v1/sources/ok", None, "admin"),
    ("PATCH", "/v1/sources/ok", {}, "admin"),
    ("DELETE", "/v1/sources/ok", None, "admin"),
]


OF_ANOTHER_PATTERN = {
    ("POST", "/v1/events"): 403,
    ("GET", "/v1/events"): 200,
    ("GET", "/v1/events/1"): 404,
    ("GET", "/v1/events/1/tree"): 404,
    ("GET", "/v1/runs"): 200,
    ("GET", "/v1/runs/1"): 404,
    ("GET", "/v1/results"): 200,
    ("GET", "/v1/subscribe/sse?kinds=none"): 422,
    ("GET", "/v1/subscriptions"): 200,
    ("DELETE", "/v1/subscriptions/ok"): 404,
    ("GET", "/v1/replays/1/results"): 200,
    ("GET", "/v1/producers/1"): 404,
    ("GET", "/v1/status"): 403,
    ("GET", "/v1/rates"): 403,
    ("GET", "/v1/subscribers"): 403,
    ("GET", "/v1/events/1/subscribers"): 403,
}
"""What a key for events of other types gets from operations that its scopes allow."""
FRAMES: dict[str, tuple[dict[str, Any], str | None]] = {
    "subscribe": ({"id": "s"}, "subscribe"),
    "publish": ({"ref": 1, "event": {"type": "t"}}, "publish"),
    "unsubscribe": ({"id": "none"}, None),
    "ack": ({"id": "none", "cursor": "x"}, None),
    "ping": ({}, None),
    "authenticate": ({"token": "x"}, "nothing"),  # it is refused, whoever sends it
}
"""The frames of a client, and the scope that each asks for."""


@pytest.fixture(scope="module")
def keys(closed: Service, issuer: TokenIssuer, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Keys and tokens by what is special about them: scope, type patterns, or what is wrong with them."""
    bad = issuer.bad_tokens(tmp_path_factory.mktemp("bad"))
    some = ("expired", "of another audience", "alg none", "alg HS256, signed with the public key")
    both = ("publish", "subscribe")
    soon = datetime.now(UTC) + timedelta(seconds=1.5)
    expired = made(closed, "expired", "admin", expires_at=soon.isoformat())
    revoked = made(closed, "revoked", "admin")
    closed.key = closed.admin
    closed.ok("DELETE", f"/v1/keys/{revoked['id']}")
    seq = closed.publish("t")["seq"]
    closed.finished(seq)
    found = {scope: made(closed, scope, scope)["key"] for scope in SCOPES}
    limited = made(closed, "limited", *both, types=["other.**"])["key"]
    closed.key = expired["key"]
    until(lambda: closed.get("/v1/status").status_code == 401, "the key to expire")
    closed.key = None
    return {
        **found,
        "limited": limited,
        "expired": expired["key"],
        "revoked": revoked["key"],
        "admin token": issuer.token("admin"),
        "limited token": issuer.token(" ".join(both), busway_types=["other.**"]),
        "token without scopes": issuer.token("openid"),
        **{f"bad token: {name}": bad[name] for name in some},
    }


def session(service: Service, key: str) -> dict[str, str]:
    """Sign in; return the headers of a page of the gateway."""
    answer = httpx.post(f"{service.own_url}/v1/session", json={"key": key}, timeout=PATIENCE)
    cookie = answer.headers["set-cookie"].partition(";")[0]
    return {"Cookie": cookie, "Sec-Fetch-Site": "same-origin", "X-Busway-CSRF": "1"}


def expected(scope: str, held: str, method: str, path: str) -> Callable[[int], bool]:
    """Return the test of the status that a key gets from an operation."""
    if held in {"revoked", "expired", "none"} or held.startswith("bad token"):
        return lambda status: status == 401
    if held.startswith("limited") and not {"publish", "subscribe"}.isdisjoint(scope.split()):
        return lambda status: status == OF_ANOTHER_PATTERN[method, path]
    if held in {*scope.split(), "admin", "admin token"}:
        return lambda status: status not in {401, 403} and status < 500
    return lambda status: status == 403


def test_every_operation_asks_for_its_scope(closed: Service, keys: dict[str, str]) -> None:
    service, service.key = closed, None
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
    asked |= {(method, "/v1/session") for method in ("POST", "GET", "DELETE")}  # tests/e2e/test_sessions.py
    asked.add(("POST", "/v1/hooks/{name}"))  # a signature replaces the key: tests/e2e/test_hooks.py
    numbers = re.compile(r"\{(seq|revision)\}")
    assert {(m, numbers.sub("{id}", p)) for m, p in told} == asked, "an operation is not in this test"
    wrong = []
    sessions = [(session(service, keys[held]), held) for held in ("admin", "subscribe")]
    sessions.append(({"Cookie": sessions[0][0]["Cookie"]}, "bare"))  # without what protects a change
    with httpx.Client(timeout=PATIENCE) as client:
        for method, path, body, scope in ASKED:
            more = {} if body is None else {"json": body}
            for held, key in {"none": None, **keys}.items():
                headers = {"Authorization": f"Bearer {key}"} if key else {}
                status = client.request(method, service.url + path, headers=headers, **more).status_code
                if not expected(scope, held, method, path)(status):
                    wrong.append((method, path, held, status))
            for headers, held in sessions:
                status = client.request(method, service.url + path, headers=headers, **more).status_code
                if not expected(scope, held, method, path)(status) and (method, held) != ("GET", "bare"):
                    wrong.append((method, path, f"session of {held}", status))
    assert not wrong
    for path in ("/", "/healthz", "/readyz", "/docs", "/client.js", "/openapi.json", "/asyncapi.json"):
        assert service.get(path).status_code == 200


def test_every_frame_asks_for_its_scope(closed: Service, keys: dict[str, str]) -> None:
    service, service.key = closed, None
    messages = service.ok("GET", "/asyncapi.json")["operations"]["send"]["messages"]
    assert {message["$ref"].rpartition("/")[2] for message in messages} == FRAMES.keys()
    for held, key in {"none": None, **keys}.items():
        service.key = key
        with service.connect() as socket:
            if held in {"none", "revoked", "expired"} or held.startswith("bad token"):
                with pytest.raises(ConnectionClosedError, match="4401"):
                    hear(socket)
                continue
            for op, (frame, scope) in FRAMES.items():
                say(socket, op=op, **frame)
                answer = hear(socket)
                allowed = scope is None or held.removesuffix(" token") in {scope, "admin"}
                allowed = (
                    allowed or (held.split()[0], op) == ("limited", "subscribe")
                ) and scope != "nothing"
                assert (answer.get("code") == "not_allowed") is not allowed, (held, op, answer)
                if answer["op"] == "subscribed":
                    say(socket, op="unsubscribe", id="s")
                    while hear(socket)["op"] != "unsubscribed":
                        pass


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


@pytest.mark.long
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


@pytest.mark.long
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
