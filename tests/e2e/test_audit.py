"""The audit log: who changed what, over HTTP and by commands. And no secret is left anywhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from busway.gateway.store.port.audit import ACTIONS

from tests import forked
from tests.issuers import TokenIssuer

from .service import PATIENCE, Service, clean_environment, hear, say, until
from .test_access import busway, made

HANDLERS = """
from busway import handler

@handler("t")
def works(event, ctx):
    return len(ctx.secrets["TOKEN"])

@handler("waits", paused=True)
def waits(event):
    return 1

@handler("leaks", max_attempts=1)
def leaks(event, ctx):
    secret = ctx.secrets[event.data]
    print("token is", secret)
    ctx.log.error("again %s", secret)
    raise ValueError(f"wrong token {secret}")
"""
TOKENS = {"TOKEN": "tok-5ecret-file", "VARIABLE": "tok-5ecret-variable"}


@pytest.fixture(scope="module")
def issuer() -> Iterator[TokenIssuer]:
    with TokenIssuer() as running:
        yield running


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory, issuer: TokenIssuer) -> Iterator[Service]:
    """A gateway with keys, tokens and secrets of handlers."""
    folder = tmp_path_factory.mktemp("audit")
    (folder / "secrets").write_text(f"TOKEN={TOKENS['TOKEN']}\n")
    options = {**issuer.options, "secrets_file": folder / "secrets", "log_level": "debug"}
    service = Service(folder, workers=1, **options)
    service.write("all.py", HANDLERS)
    service.key = service.admin = busway(service, "keys", "create", "me", "--create")
    service.variables = {"BUSWAY_SECRET_VARIABLE": TOKENS["VARIABLE"]}
    yield service.start()
    service.close()


def entries(service: Service, query: str = "") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = service.ok("GET", f"/v1/audit?limit=1000{query}")["items"]
    return found


def test_changes_are_recorded_with_who_made_them(service: Service) -> None:
    event = service.publish("waits", None)
    run = service.ok("GET", f"/v1/runs?event={event['seq']}")["items"][0]["id"]
    helper = made(service, "helper", "handlers:write", "subscribe")
    service.key = helper["key"]
    new = {"name": "mine", "target": "all:works", "events": ["mine"]}
    schedule = {"name": "daily", "cron": "0 4 * * *", "event": {"type": "x"}}
    asked: list[tuple[str, str, Any, str, str]] = [
        ("POST", "/v1/handlers", new, "handler.created", "mine"),
        ("PATCH", "/v1/handlers/mine", {"timeout": 9}, "handler.changed", "mine"),
        ("POST", "/v1/handlers/mine/pause", None, "handler.paused", "mine"),
        ("POST", "/v1/handlers/mine/resume", None, "handler.resumed", "mine"),
        ("POST", "/v1/handlers/mine/replay", {"types": ["**"]}, "replay.created", "mine"),
        ("DELETE", "/v1/handlers/mine", None, "handler.deleted", "mine"),
        ("POST", f"/v1/runs/{run}/cancel", None, "run.cancelled", str(run)),
        ("POST", f"/v1/runs/{run}/retry", None, "run.retried", str(run)),
        ("POST", f"/v1/events/{event['seq']}/cancel", None, "event.cancelled", str(event["seq"])),
        ("POST", "/v1/runs/retry", {"state": "cancelled", "handler": "waits"}, "runs.retried", "waits"),
        ("POST", "/v1/schedules", schedule, "schedule.created", "daily"),
        ("PATCH", "/v1/schedules/daily", {"cron": "0 5 * * *"}, "schedule.changed", "daily"),
        ("POST", "/v1/schedules/daily/pause", None, "schedule.paused", "daily"),
        ("POST", "/v1/schedules/daily/resume", None, "schedule.resumed", "daily"),
        ("POST", "/v1/schedules/daily/run", None, "schedule.run", "daily"),
        ("DELETE", "/v1/schedules/daily", None, "schedule.deleted", "daily"),
    ]
    for method, path, body, *_ in asked:
        service.ok(method, path, body)
    assert service.post("/v1/handlers/mine/pause").status_code == 404
    assert service.post(f"/v1/runs/{run + 999}/cancel").status_code == 404
    assert service.post("/v1/keys", {"name": "x", "scopes": ["admin"]}).status_code == 403
    service.key = service.admin
    found = entries(service, f"&actor=key:{helper['id']}")[::-1]
    assert [(each["action"], each["object"]) for each in found] == [tuple(each[3:]) for each in asked]
    assert {(each["name"], each["address"]) for each in found} == {("helper", "127.0.0.1")}
    assert found[0]["details"] == {"revision": 1}
    assert [each["id"] for each in found] == sorted({each["id"] for each in found})
    source = {"name": "repo", "kind": "github", "type": "x"}
    service.ok("POST", "/v1/sources", source)
    service.ok("PATCH", "/v1/sources/repo", {"paused": True})
    service.ok("DELETE", "/v1/sources/repo")
    service.ok("POST", f"/v1/keys/{helper['id']}/rotate", {"overlap": 0})
    service.ok("DELETE", f"/v1/keys/{helper['id']}")
    service.ok("POST", "/v1/session", {"key": service.key})
    mine = [each["action"] for each in entries(service, "&actor=key:1")[::-1]]
    assert mine == [
        "key.created", "source.created", "source.changed", "source.deleted", "key.rotated", "key.revoked",
        "session.created",
    ]  # fmt: skip
    service.logged(f"handler.paused mine by key:{helper['id']} (helper) from 127.0.0.1")
    service.logged("key.created helper by key:1 (me) from 127.0.0.1")
    more = {"handler.secret_rotated": "url2", "replay.cancelled": None, "subscription.deleted": "durable"}
    hook = {"name": "url2", "target": "https://example.com/x", "events": ["never"]}
    service.ok("POST", "/v1/handlers", hook)
    service.ok("POST", "/v1/handlers/url2/secret")
    replay = service.ok("POST", "/v1/handlers/waits/replay", {"types": ["waits"]})
    service.ok("POST", f"/v1/replays/{replay['id']}/cancel")
    with service.connect() as socket:
        say(socket, op="subscribe", id="s", durable="durable")
        assert hear(socket)["op"] == "subscribed"
    service.ok("DELETE", "/v1/subscriptions/durable")
    everything = {each["action"]: each["object"] for each in entries(service)}
    assert {name: everything[name] for name in more} == {**more, "replay.cancelled": str(replay["id"])}
    assert everything.keys() == ACTIONS.keys()


def test_commands_are_recorded_and_the_log_is_filtered(service: Service) -> None:
    busway(service, "keys", "create", "second")
    (made_,) = [each for each in entries(service, "&actor=cli") if each["details"].get("name") == "second"]
    assert (made_["action"], made_["address"], made_["node"]) == ("key.created", None, None)
    busway(service, "keys", "revoke", made_["object"])
    assert entries(service, f"&object={made_['object']}&action=key.*")[0]["action"] == "key.revoked"
    everything = entries(service)
    times = [each["time"] for each in everything]
    assert entries(service, f"&since={times[0]}")[0] == everything[0]
    assert all(each["time"] < times[0] for each in entries(service, f"&until={times[0]}"))
    pages, after = [], ""
    while after is not None:
        page = service.ok("GET", f"/v1/audit?limit=2{after and f'&after={after}'}")
        pages += page["items"]
        after = page["next"]
    assert [each["id"] for each in pages] == [each["id"] for each in everything]
    for query in ("action=nothing.here", "action=**.x", "since=yesterday", "after=x"):
        assert service.get(f"/v1/audit?{query}").status_code in {400, 422}
    listed = busway_at(service, "audit", "--action", "key.*", "--json", "-n", "1").splitlines()
    assert [json.loads(line)["action"] for line in listed] == ["key.revoked"]
    assert "key.revoked" in busway_at(service, "audit", "--actor", "cli")


def test_the_log_has_a_line_for_each_of_many_changes_within_a_second(service: Service) -> None:
    names = [f"many-{n}" for n in range(60)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda name: made(service, name, "publish"), names))
    until(
        lambda: [name for name in names if f"key.created {name} by" not in service.log.read_text()] == [],
        "the lines",
    )


def busway_at(service: Service, *words: str) -> str:
    """Run a command that asks the gateway."""
    done = forked.run(
        [sys.executable, "-m", "busway", *words],
        env={**clean_environment(), "BUSWAY_URL": service.url, "BUSWAY_KEY": str(service.key)},
        capture_output=True, text=True, timeout=PATIENCE, check=True,
    )  # fmt: skip
    return done.stdout


def signed_in(service: Service, credential: str | None) -> str:
    """Sign in; return the value of the cookie."""
    answer = service.post("/v1/session", {"key": credential}).headers["set-cookie"]
    service.client.cookies.clear()
    return str(answer.partition("=")[2].partition(";")[0])


def of_tokens(service: Service, issuer: TokenIssuer) -> dict[str, str]:
    """Use tokens in every way; return them, and what was issued for them."""
    first, second = (issuer.token("publish subscribe admin", jti=name) for name in ("one", "two"))
    service.key = first
    service.publish("t")
    found = {"token": first, "fresh token": second, "cookie of a token": signed_in(service, second)}
    found["ticket of a token"] = service.ok("POST", "/v1/tickets")["ticket"]
    used = service.ok("POST", "/v1/tickets")["ticket"]
    service.key = None
    with service.connect(f"?ticket={used}") as socket:
        say(socket, op="authenticate", ref="a", token=second)
        assert hear(socket)["op"] == "authenticated"
        say(socket, op="authenticate", ref="b", token=second[:-4])
        assert hear(socket)["op"] == "error"
    service.key = service.admin
    return {**found, "used ticket of a token": used, "signature": second.rpartition(".")[2]}


def test_no_secret_is_left_anywhere(service: Service, issuer: TokenIssuer, tmp_path: Path) -> None:
    """After a full run, secrets of all kinds are only where they must be."""
    tokens = of_tokens(service, issuer)
    key = made(service, "grepped", "publish", "subscribe")["key"]
    signing = service.ok(
        "POST", "/v1/handlers", {"name": "url", "target": "https://example.com/x", "events": ["never"]}
    )["secret"]
    hook = service.ok("POST", "/v1/sources", {"name": "hook", "kind": "hmac", "type": "h"})["secret"]
    ticket = service.ok("POST", "/v1/tickets")["ticket"]
    cookie = signed_in(service, service.key)
    assert len(cookie) > 20
    token = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.s1gnature"
    for name in TOKENS:
        seq = service.publish("leaks", name)["seq"]
        (attempt,) = service.run_of(seq)["attempts"]
        assert "token is ***" in attempt["log"]
        assert attempt["error"]["message"] == "wrong token ***"
    shown = [service.get("/metrics").text]
    wrong = (
        {"Authorization": f"Bearer {tokens['token'][:-5]}"},
        {"Authorization": f"Bearer {token}"},
        {"Authorization": f"Bearer {key}x"},
        {"Cookie": token},
    )
    shown += [service.client.get(f"{service.url}/v1/audit", headers=headers).text for headers in wrong]
    shown.append(service.client.get(f"{service.url}/v1/subscribe?ticket={ticket}x").text)
    shown.append(service.client.get(f"{service.url}/v1/events?key={key}").text)
    lists = ("audit", "status", "keys", "sources", "handlers")
    shown += [json.dumps(service.ok("GET", f"/v1/{name}")) for name in lists]
    shown.append(service.log.read_text())
    everywhere = {"key": key.partition("_")[2].partition("_")[2], "ticket": ticket, "token": token, **TOKENS}
    everywhere |= {**tokens, "cookie": cookie}
    assert min(map(len, everywhere.values())) > 10
    if password := urlsplit(service.database_url).password:
        everywhere["password"] = password
    kept_in_database = {"signing": signing, "hook": hook}  # they are needed to sign and to check signatures
    for name, secret in {**everywhere, **kept_in_database}.items():
        for text in shown:
            assert secret not in text, name
    files = [each for each in service.folder.rglob("*") if each.is_file() and each.name != "secrets"]
    database = [each for each in files if each.name.startswith("busway.db")]
    for file in files:
        content = file.read_bytes()
        for name, secret in everywhere.items():
            assert secret.encode() not in content, (name, file)
        if file not in database:
            for name, secret in kept_in_database.items():
                assert secret.encode() not in content, (name, file)
