"""Tokens instead of keys, and keys of a file, at running gateways."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import busway as busway_client
import pytest
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import ClientConnection

from tests import forked
from tests.issuers import AUDIENCE, TokenIssuer

from .conftest import Serve
from .service import PATIENCE, Service, hear, items, say, until
from .test_access import HANDLER, busway
from .test_sessions import ask, signed_in


@pytest.fixture(scope="module")
def issuer() -> Iterator[TokenIssuer]:
    with TokenIssuer() as running:
        yield running


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, issuer: TokenIssuer) -> Iterator[Service]:
    """A gateway that accepts tokens of the issuer, and has a key."""
    service = Service(tmp_path_factory.mktemp("tokens"), workers=1, **issuer.options)
    service.write("all.py", HANDLER)
    service.admin = busway(service, "keys", "create", "me", "--create")
    yield service.start()
    service.close()


def test_no_bad_token_opens_anything(gateway: Service, issuer: TokenIssuer, tmp_path: Path) -> None:
    service = gateway
    for name, text in issuer.bad_tokens(tmp_path).items():
        service.key = text
        for answer in (service.get("/v1/events"), service.post("/v1/events", {"type": "t"})):
            assert answer.status_code == 401, name
            assert 'error="invalid_token", error_description="' in answer.headers["WWW-Authenticate"], name
    issuer.asked, before = 0, issuer.asked
    for n in range(50):
        service.key = issuer.token("admin", headers={"kid": f"unknown{n}"})
        assert service.get("/v1/events").status_code == 401
    assert issuer.asked <= 2 * len(service.urls), "the issuer must not be asked for each unknown key"
    issuer.asked += before


def authenticated(socket: ClientConnection, token: str) -> dict[str, Any]:
    """Send a token, and return the answer. The frames before it are results, or subscriptions that end."""
    say(socket, op="authenticate", ref="a", token=token)
    while (answer := hear(socket)).get("ref") != "a":
        pass
    return answer


def test_a_fresh_token_lets_a_socket_go_on_and_widens_nothing(gateway: Service, issuer: TokenIssuer) -> None:
    service, both, end = gateway, "publish subscribe", int(time.time()) + 300
    service.key = issuer.token(both)
    with service.connect() as socket:
        say(socket, op="subscribe", id="all")
        assert hear(socket)["op"] == "subscribed"
        for token in (issuer.token("admin", sub="root"), service.admin, "x", issuer.token("admin", aud="x")):
            assert authenticated(socket, str(token))["code"] == "not_allowed"
        answer = authenticated(socket, issuer.token(both, exp=end))
        assert answer.keys() == {"op", "ref", "expires_at"}
        assert answer["op"] == "authenticated"
        assert datetime.fromisoformat(answer["expires_at"]).timestamp() == end
        assert authenticated(socket, issuer.token(both, busway_types=["t", "u.*"]))["op"] == "authenticated"
        say(socket, op="unsubscribe", id="all")
        assert hear(socket)["code"] == "unknown_subscription"  # it had all types, and has ended
        say(socket, op="subscribe", id="some", types=["t"])
        assert hear(socket)["op"] == "subscribed"
        say(socket, op="publish", ref="p", event={"type": "other.type"})
        assert hear(socket)["code"] == "not_allowed"
        assert authenticated(socket, issuer.token(both))["op"] == "authenticated"  # wider
        say(socket, op="publish", ref="p", event={"type": "other.type"})
        assert hear(socket)["op"] == "published"
        service.publish("t")
        assert items(socket, 1)[0]["event"]["type"] == "t"
        assert authenticated(socket, issuer.token("publish"))["op"] == "authenticated"
        say(socket, op="subscribe", id="more")
        assert hear(socket)["code"] == "not_allowed"


def test_a_stream_ends_with_its_token(gateway: Service, issuer: TokenIssuer) -> None:
    service, stream = gateway, f"{gateway.own_url}/v1/subscribe/sse?ticket="
    service.key = issuer.token("subscribe")
    with service.connect() as socket:
        for seconds in (1, 10, 60):  # a busy machine may take longer than that
            token = issuer.token("subscribe", exp=int(time.time()) + 1 + seconds)
            if authenticated(socket, token)["op"] == "authenticated":
                break
        with pytest.raises(ConnectionClosedError, match=r"4401.*token has expired"):
            hear(socket)
    for seconds in (1, 10, 60):
        service.key = issuer.token("subscribe", exp=int(time.time()) + 1 + seconds)
        made = service.post("/v1/tickets")
        if made.status_code == 401:
            continue
        url = stream + made.json()["ticket"]
        with service.client.stream("GET", url) as answer:
            if answer.status_code == 401:
                continue
            text = "".join(answer.iter_text())
        assert '"code":4401' in text
        assert "token has expired" in text
        return
    pytest.fail("no token was long enough")


def test_a_client_asks_a_function_for_its_key_and_again_when_it_is_refused(
    gateway: Service, issuer: TokenIssuer
) -> None:
    service, asked = gateway, []

    def one_after_another() -> str:
        asked.append(1)
        return issuer.token("publish subscribe", aud=AUDIENCE if len(asked) % 2 == 0 else "another")

    async def coroutine() -> str:
        return issuer.token("publish subscribe")

    async def use(key: Any) -> None:
        async with busway_client.Client(service.url, key) as client, client.subscribe("t") as stream:
            await stream.open()
            receipt = await client.publish("t")
            async for item in stream:  # a node may be behind: then it has results of before
                if item.event.seq == receipt.seq:
                    break

    asyncio.run(use(one_after_another))
    assert len(asked) == 2
    asyncio.run(use(coroutine))
    asyncio.run(use(issuer.token("publish subscribe")))
    with busway_client.SyncClient(service.url, one_after_another) as client:
        client.publish("t")
    with (
        busway_client.SyncClient(service.url, lambda: issuer.token(aud="another")) as client,
        pytest.raises(busway_client.BuswayClientError, match=r"another audience"),
    ):
        client.publish("t")


@pytest.mark.long
def test_a_subscription_of_a_client_goes_on_with_fresh_tokens(gateway: Service, issuer: TokenIssuer) -> None:
    asked: list[str] = []

    def short() -> str:
        asked.append(issuer.token("publish subscribe", exp=int(time.time()) + 4))
        return asked[-1]

    async def use() -> None:
        async with busway_client.Client(gateway.own_url, short) as client, client.subscribe("t") as stream:
            await stream.open()
            while len(asked) < 4:
                receipt = await client.publish("t")
                async for item in stream:
                    if item.event.seq == receipt.seq:
                        break
                await asyncio.sleep(0.2)

    asyncio.run(use())


def test_a_gateway_goes_on_while_the_issuer_is_away_and_takes_its_new_keys(make_service: Serve) -> None:
    with TokenIssuer() as issuer:
        service = make_service(workers=1, **issuer.options).start()
        assert service.get("/v1/status").status_code == 401  # it is never open
        service.key = issuer.token("admin")
        status = service.ok("GET", "/v1/status")
        assert status["access"] == "by key or token"
        assert status["tokens"] == {"source": issuer.url, "keys": 1, "error": None}
        issuer.down = True
        for _ in service.urls:
            service.ok("POST", "/v1/events", {"type": "t"})
        issuer.add("2")
        issuer.down = False
        service.key = issuer.token("admin")
        for _ in service.urls:
            assert service.post("/v1/events", {"type": "t"}).status_code == 202
        with service.connect() as socket:
            say(socket, op="ping")
            assert hear(socket) == {"op": "pong"}


def test_wrong_settings_for_tokens_end_with_one_line(make_service: Serve, tmp_path: Path) -> None:
    short = tmp_path / "short"
    short.write_text("secret")
    for more, says in (
        ({"jwt_audience": "a"}, "--jwt-audience: tokens need an issuer"),
        ({"jwt_issuer": "i"}, "--jwt-audience"),
        ({"jwt_issuer": "i", "jwt_audience": "a", "jwt_secret_file": short}, "needs at least 32 bytes"),
        ({"jwt_issuer": "i", "jwt_audience": "a", "jwt_key_file": short, "jwt_algorithm": "none"}, "'none'"),
    ):
        service = make_service(**more)
        process = service.launch()
        assert process.wait(PATIENCE) == 2
        assert process.stdout is not None
        process.stdout.close()
        (line,) = service.log.read_text().splitlines()[-1:]
        assert says in line
        assert "Traceback" not in service.log.read_text()


def test_a_page_signs_in_with_a_token_and_ends_with_the_key_of_its_issuer(
    make_service: Serve, tmp_path: Path
) -> None:
    """The file with the keys is read again when it has changed."""
    with TokenIssuer() as issuer:
        file, first = tmp_path / "issuer.pem", issuer.pem
        file.write_bytes(first)
        options = {"jwt_issuer": issuer.name, "jwt_audience": AUDIENCE, "jwt_key_file": file, "jwt_leeway": 0}
        service = make_service(workers=1, **options).start()
        end, own = int(time.time()) + 3600, service.own_url
        token = issuer.token("publish subscribe", exp=end, busway_types=["t"])
        answer, cookie = signed_in(service, token)
        me = answer.json()
        assert (me["by"], me["name"], me["scopes"], me["types"]) == (
            "session", "shop", ["publish", "subscribe"], ["t"],
        )  # fmt: skip
        assert datetime.fromisoformat(me["expires_at"]).timestamp() == end
        page = {"Origin": "OWN", "X_Busway_CSRF": "1"}
        for path, body, status in (
            ("/v1/events", {"type": "t"}, 202), ("/v1/events", {"type": "u"}, 403), ("/v1/keys", None, 403),
            ("/v1/tickets", {}, 201),
        ):  # fmt: skip
            assert (
                ask(service, "POST" if body is not None else "GET", path, cookie, body, **page) == status
            ), path
        service.key = issuer.token("admin", sub="root")
        assert {each["actor"] for each in service.ok("GET", "/v1/audit?action=session.created")["items"]} == {
            "token:shop"
        }
        service.key = None
        with service.connect(headers={"Cookie": cookie}, origin=own, url=own) as socket:
            say(socket, op="subscribe", id="s")
            assert hear(socket)["op"] == "subscribed"
            issuer.add("2")
            file.write_bytes(first + issuer.pem)
            service.key = issuer.token("admin", sub="root")
            for url in service.urls:
                until(lambda url=url: status_of(service, url).get("tokens", {}).get("keys") == 2, "both keys")
            file.write_text("nothing")
            for url in service.urls:
                until(lambda url=url: status_of(service, url)["tokens"]["error"], "the error of the file")
            assert "PEM" in service.logged("cannot be used, so those before stay valid")
            say(socket, op="ping")
            while hear(socket)["op"] != "pong":
                pass
            assert ask(service, "GET", "/v1/events", cookie) == 200
            file.write_bytes(issuer.pem)
            with pytest.raises(ConnectionClosedError, match="4401"):
                _ = [hear(socket) for _ in iter(int, 1)]  # frames without results may come before
        for url in service.urls:
            until(lambda url=url: status_of(service, url)["tokens"]["keys"] == 1, "the file to be read")
        assert ask(service, "GET", "/v1/events", cookie) == 401
        assert service.post("/v1/session", {"key": token}).status_code == 401


def test_keys_of_a_file_come_and_go_with_it(make_service: Serve, tmp_path: Path) -> None:
    file = tmp_path / "keys.toml"
    service = make_service(host="0.0.0.0", workers=1, keys_file=file)

    def declared(name: str, *words: str) -> dict[str, Any]:
        made: dict[str, Any] = json.loads(
            forked.run(
                [sys.executable, "-m", "busway", "keys", "declare", name, "--json", *words],
                capture_output=True, text=True, timeout=PATIENCE, check=True,
            ).stdout
        )  # fmt: skip
        return made

    me, shop = declared("me"), declared("shop", "--scope=publish", "--scope=subscribe", "--types=order.**")
    for text, says in (
        ("", "needs an API key"),
        ("[keys.me]\ndigest = 1", f"the keys file {str(file)!r}: keys.me.digest must be"),
        ("[keys.me", "line 1"),
    ):
        file.write_text(text)
        process = service.launch()
        assert process.wait(PATIENCE) == 2
        assert process.stdout is not None
        process.stdout.close()
        assert says in service.log.read_text().splitlines()[-1]
    file.write_text(me["entry"] + shop["entry"])
    service.start()
    service.key = me["key"]
    items = service.ok("GET", "/v1/keys")["items"]
    assert [(key["name"], key["source"], key["scopes"]) for key in items if key["id"] == me["id"]] == [
        ("me", "file", ["admin"])
    ]
    assert len(items) == 2
    for method, path in (("DELETE", ""), ("POST", "/rotate")):
        answer = service.client.request(
            method,
            f"{service.url}/v1/keys/{me['id']}{path}",
            json={},
            headers={"Authorization": f"Bearer {me['key']}"},
        )
        assert answer.status_code == 409, answer.text
        assert "keys file" in answer.json()["detail"]
    service.key = shop["key"]
    assert service.post("/v1/events", {"type": "order.new"}).status_code == 202
    assert service.post("/v1/events", {"type": "other"}).status_code == 403
    with service.connect() as socket:
        say(socket, op="subscribe", id="s", durable="mine")
        assert hear(socket)["op"] == "subscribed"
    with service.connect() as socket:
        say(socket, op="subscribe", id="s", durable="mine")  # its name has the patterns of the key
        assert hear(socket)["op"] == "subscribed"
        file.write_text("[keys.me")
        service.key = me["key"]
        for url in service.urls:
            until(lambda url=url: status_of(service, url)["keys_file"]["error"], "the error of the file")
        assert "line 1" in service.logged("cannot be used, so the keys that it had before stay valid")
        say(socket, op="ping")
        assert hear(socket) == {"op": "pong"}
        file.write_text(me["entry"])
        with pytest.raises(ConnectionClosedError, match="4401"):
            hear(socket)
    for url in service.urls:
        until(lambda url=url: status_of(service, url)["keys_file"]["keys"] == 1, "the file to be read")
    service.key = shop["key"]
    assert service.post("/v1/events", {"type": "order.new"}).status_code == 401


def status_of(service: Service, url: str) -> dict[str, Any]:
    answer = service.client.get(f"{url}/v1/status", headers={"Authorization": f"Bearer {service.key}"})
    found: dict[str, Any] = answer.json()
    return found
