"""Pages sign in with a key and go on with a cookie; what an open gateway refuses of browsers and proxies."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus

from .service import PATIENCE, Service, hear, say, until

HANDLER = "from busway import handler\n\n@handler('t')\ndef ok(event):\n    return 1\n"
CSRF = {"X-Busway-CSRF": "1"}
PAGE = "https://app.example"


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = Service(
        tmp_path_factory.mktemp("keyed"), allow_origin=PAGE, trusted_proxies="127.0.0.1", workers=1
    )
    made.write("code.py", HANDLER)
    try:
        opened(made.start())
    except BaseException:
        made.close()
        raise
    made.key = made.ok("POST", "/v1/keys", {"name": "me", "scopes": ["admin"]})["key"]
    yield made
    made.close()


FORWARDED = (
    "Forwarded", "Via", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto", "X-Forwarded-Port",
    "X-Real-IP", "CF-Connecting-IP", "True-Client-IP", "CDN-Loop",
)  # fmt: skip
"""Headers of proxies and tunnels."""
SITES = {
    "none": 200, "same-origin": 200, "cross-site": 403, "same-site": 403,
}  # fmt: skip


def opened(service: Service) -> None:
    """What holds while the gateway has no key, also for a peer that is a trusted proxy."""
    for name in FORWARDED:
        for method, path in (("GET", "/v1/events"), ("POST", "/v1/events"), ("GET", "/v1/session")):
            assert service.request(method, path, headers={name: "1.2.3.4"}).status_code == 421, name
        with pytest.raises(InvalidStatus, match="421"), service.connect(headers={name: "1.2.3.4"}):
            pass
    for site, status in SITES.items():
        assert service.get("/v1/events", headers={"Sec-Fetch-Site": site}).status_code == status, site
        assert service.get("/docs", headers={"Sec-Fetch-Site": site}).status_code == 200, site
    page = {"Origin": PAGE, "Sec-Fetch-Site": "cross-site"}  # an allowed page says its origin
    assert service.get("/v1/events", headers=page).status_code == 200
    me = service.ok("GET", "/v1/session")
    assert me == {
        "by": "open",
        "key": None,
        "name": None,
        "scopes": ["admin"],
        "types": None,
        "expires_at": None,
    }
    assert service.post("/v1/session", {"key": "bw_1_x"}).status_code == 409
    service.ok("DELETE", "/v1/session")


def signed_in(service: Service, key: str | None = None, **headers: str) -> tuple[httpx.Response, str]:
    """Sign in; return the answer and the cookie, as a browser sends it."""
    answer = service.client.post(
        f"{service.own_url}/v1/session", json={"key": key or service.key}, headers=headers
    )
    assert answer.status_code == 201, answer.text
    service.client.cookies.clear()
    return answer, answer.headers["set-cookie"].partition(";")[0]


def ask(service: Service, method: str, path: str, cookie: str, body: Any = None, **headers: str) -> int:
    """Send a request as a page does, to one node or the other; return the status."""
    more, url = {} if body is None else {"json": body}, service.url
    named = {name.replace("_", "-"): value.replace("OWN", url) for name, value in headers.items()}
    return httpx.request(
        method, url + path, headers={"Cookie": cookie, **named}, timeout=PATIENCE, **more
    ).status_code


def test_a_page_signs_in_and_out(service: Service) -> None:
    answer, cookie = signed_in(service)
    assert re.fullmatch(
        r"busway_session=bws_[\w-]+; Path=/; Max-Age=43(200|199); HttpOnly; SameSite=Strict",
        answer.headers["set-cookie"],
    )
    assert answer.headers["cache-control"] == "no-store"
    assert (service.key or "").rpartition("_")[2] not in str(answer.headers)
    me = answer.json()
    assert (me["by"], me["name"], me["scopes"]) == ("session", "me", ["admin"])
    ends = datetime.fromisoformat(me["expires_at"]) - datetime.now(UTC)
    assert timedelta(hours=11) < ends <= timedelta(hours=12)
    for url in service.urls:  # a cookie is good on every node
        again = service.client.get(f"{url}/v1/session", headers={"Cookie": f"theme=dark; {cookie}; x=y"})
        assert again.json() == me
    by_key = service.client.get(
        f"{service.url}/v1/session", headers={"Cookie": cookie, "Authorization": f"Bearer {service.key}"}
    )
    assert by_key.json() == me | {"by": "key", "expires_at": None}
    out = service.client.delete(f"{service.url}/v1/session", headers={"Cookie": cookie})
    assert (out.status_code, out.headers["set-cookie"].split("; ")[:3]) == (
        204, ["busway_session=", "Path=/", "Max-Age=0"],
    )  # fmt: skip


def test_behind_a_trusted_proxy_with_tls_the_cookie_is_secure(service: Service) -> None:
    answer, cookie = signed_in(service, **{"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.9"})
    assert cookie.startswith("__Host-busway_session=bws_")
    assert answer.headers["set-cookie"].endswith("; HttpOnly; SameSite=Strict; Secure")
    assert ask(service, "GET", "/v1/events", cookie) == 200
    # The proxy names the host that the page was opened with.
    page = {"Origin": "https://bus.example", "X_Forwarded_Host": "bus.example", "X_Forwarded_Proto": "https"}
    assert ask(service, "POST", "/v1/events", cookie, {"type": "t"}, **page, X_Busway_CSRF="1") == 202
    page["X_Forwarded_Host"] = "other.example"
    assert ask(service, "POST", "/v1/events", cookie, {"type": "t"}, **page, X_Busway_CSRF="1") == 403


PROTECTED: list[tuple[dict[str, str], int, int]] = [
    ({"Origin": "OWN", "Sec_Fetch_Site": "same-origin", "X_Busway_CSRF": "1"}, 200, 202),
    ({"Origin": "OWN", "X_Busway_CSRF": "1"}, 200, 202),
    ({"Sec_Fetch_Site": "same-origin", "X_Busway_CSRF": "1"}, 200, 202),
    ({"Origin": "OWN", "Sec_Fetch_Site": "same-origin"}, 200, 403),
    ({"X_Busway_CSRF": "1"}, 200, 403),
    ({"Sec_Fetch_Site": "none", "X_Busway_CSRF": "1"}, 200, 403),
    ({"Origin": "OWN", "Sec_Fetch_Site": "same-site", "X_Busway_CSRF": "1"}, 403, 403),
    ({"Sec_Fetch_Site": "cross-site", "X_Busway_CSRF": "1"}, 403, 403),
    ({"Origin": "null", "X_Busway_CSRF": "1"}, 403, 403),
    ({"Origin": "http://evil.example", "X_Busway_CSRF": "1"}, 403, 403),
    ({"Origin": PAGE, "X_Busway_CSRF": "1"}, 403, 403),  # allowed, but with a key of its own
]
"""What a request with the cookie has else; what it gets when it reads, and when it changes something."""


@pytest.mark.parametrize(("headers", "reads", "changes"), PROTECTED)
def test_only_pages_of_the_gateway_use_its_cookie(
    service: Service, cookie: str, headers: dict[str, str], reads: int, changes: int
) -> None:
    assert ask(service, "GET", "/v1/keys", cookie, **headers) == reads
    for path, body in (("/v1/events", {"type": "t"}), ("/v1/tickets", {})):
        status = ask(service, "POST", path, cookie, body, **headers)
        assert status == (changes if changes != 202 or path == "/v1/events" else 201)


@pytest.fixture(scope="module")
def cookie(service: Service) -> str:
    return signed_in(service)[1]


def test_a_socket_with_the_cookie_comes_from_the_gateway_itself(service: Service, cookie: str) -> None:
    held, service.key = service.key, None
    try:
        own = service.own_url
        for origin in (None, PAGE, "http://evil.example", "null"):
            with (
                pytest.raises(InvalidStatus, match="403"),
                service.connect(headers={"Cookie": cookie}, origin=origin),
            ):
                pass
        with service.connect(headers={"Cookie": cookie}, origin=own, url=own) as socket:
            say(socket, op="subscribe", id="s")
            assert hear(socket)["op"] == "subscribed"
        stream = {"Cookie": cookie, "Sec-Fetch-Site": "same-origin"}
        with service.client.stream("GET", f"{own}/v1/subscribe/sse", headers=stream) as answer:
            assert answer.status_code == 200
    finally:
        service.key = held


def test_a_session_ends_with_its_key(service: Service) -> None:
    made = service.ok("POST", "/v1/keys", {"name": "page", "scopes": ["subscribe"], "types": ["t"]})
    answer, cookie = signed_in(service, made["key"])
    assert (answer.json()["scopes"], answer.json()["types"]) == (["subscribe"], ["t"])
    held, service.key = service.key, None
    own = service.own_url
    with service.connect(headers={"Cookie": cookie}, origin=own, url=own) as socket:
        say(socket, op="ping")
        assert hear(socket)["op"] == "pong"
        service.key = held
        service.ok("DELETE", f"/v1/keys/{made['id']}")
        with pytest.raises(ConnectionClosedError, match="4401"):
            hear(socket)
    assert ask(service, "GET", "/v1/events", cookie) == 401
    soon = datetime.now(UTC) + timedelta(hours=1)
    short = service.ok(
        "POST", "/v1/keys", {"name": "k", "scopes": ["publish"], "expires_at": soon.isoformat()}
    )
    answer, _ = signed_in(service, short["key"])
    assert datetime.fromisoformat(answer.json()["expires_at"]) <= soon


def test_no_other_cookie_is_a_session(service: Service, cookie: str) -> None:
    name, _, token = cookie.partition("=")
    for bad in (
        token[:-4],
        token + "AAAA",
        token[:10] + ("B" if token[10] != "B" else "C") + token[11:],
        "bws_" + "A" * 60,
        "bws_",
        "",
        "x" * 4000,
    ):
        assert ask(service, "GET", "/v1/events", f"{name}={bad}") == 401, bad
    key = f"{name}={service.key}"
    assert ask(service, "GET", "/v1/events", key) == 401
    assert service.client.get(f"{service.url}/v1/session", headers={"Cookie": key}).status_code == 401
    # Whoever has an old cookie may sign in again.
    answer = service.client.post(
        f"{service.url}/v1/session", json={"key": service.key}, headers={"Cookie": f"{name}={token[:-4]}"}
    )
    assert answer.status_code == 201


def test_wrong_sign_ins_are_limited_by_address(service: Service) -> None:
    def sign_in(key: Any, address: str) -> httpx.Response:
        headers = {"X-Forwarded-For": address}
        return httpx.post(
            f"{service.own_url}/v1/session", json={"key": key}, headers=headers, timeout=PATIENCE
        )

    assert sign_in("", "192.0.2.1").status_code == 422
    assert sign_in("bw_1_x", "192.0.2.1").status_code == 401
    for address in ("192.0.2.2", "2001:db8::2"):
        refused = until(lambda a=address: (r := sign_in("bw_1_x", a)).status_code == 429 and r, "the limit")
        assert int(refused.headers["retry-after"]) > 0
        assert "wrong keys" in refused.json()["detail"]
    assert sign_in("bw_1_x", "2001:db8::3").status_code == 429  # the same network of 64 bits
    assert sign_in(service.key, "192.0.2.3").status_code == 201
