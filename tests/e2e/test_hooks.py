"""Webhooks of senders that sign: as their own libraries sign them, forged ones, challenges, rotation."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote_plus, urlencode

import httpx
import pytest
import stripe
from slack_sdk.signature import SignatureVerifier
from standardwebhooks import Webhook

from tests.documents.answers import as_described
from tests.documents.node import Node

from .conftest import Shared
from .service import Service

HANDLER = """
from busway import handler

@handler("hooked.**")
def seen(event):
    return event.type
"""
SECRETS = {
    "github": "it is a secret to everybody", "stripe": "whsec_5WbX5kEWLlfzsGNjH64I8lOOqUB6e8FH",
    "slack": "8f742231b10e8888abcd99yyyzzz85a5", "standard": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    "hmac": "another secret of ours",
}  # fmt: skip
BODIES: dict[str, Any] = {
    "github": {"action": "opened", "number": 7, "repository": {"id": 1296269, "full_name": "octocat/Hello"}},
    "stripe": {
        "id": "evt_1NG8Du2eZvKYlo2CUI79vXWy", "object": "event", "api_version": "2019-02-19",
        "created": 1686089970, "livemode": False, "pending_webhooks": 0, "type": "setup_intent.created",
        "data": {"object": {"id": "seti_1NG8Du2eZvKYlo2C9XMqbR0x", "object": "setup_intent"}},
        "request": {"id": None, "idempotency_key": None},
    },
    "slack": {
        "token": "z26uFbvR1xHJEdHE1OQiO6t8", "team_id": "T123ABC456", "api_app_id": "A123ABC456",
        "event": {"type": "reaction_added", "user": "U123ABC456", "reaction": "thumbsup"},
        "type": "event_callback", "event_id": "Ev123ABC456", "event_time": 1234567890,
    },
    "standard": {"type": "contact.created", "timestamp": "2022-11-03T20:26:10.344522Z", "data": {"id": "1f"}},
    "hmac": {"type": "sent", "parcel": 3},
}  # fmt: skip
IDS = {"github": "72d3162e-cc78-11e3-81ab-4c9367dc0958", "stripe": "evt_1NG8Du2eZvKYlo2CUI79vXWy",
       "slack": "Ev123ABC456", "standard": "msg_p5jXN8AQM9LWM0D4loKWxJek", "hmac": "delivery-1"}  # fmt: skip
NAMES = {"github": "pull_request", "stripe": "setup_intent.created", "slack": "reaction_added",
         "standard": "contact.created", "hmac": "sent"}  # fmt: skip
KINDS = list(SECRETS)
Headers = dict[str, str]


def headers_of(kind: str, body: bytes, secret: str, age: float = 0) -> Headers:
    """Return the headers of a webhook that was sent so many seconds ago, as the sender's library signs it."""
    now = int(time.time() - age)
    text = body.decode("latin-1" if kind == "hmac" else "utf-8")
    json_ = {"content-type": "application/json"}
    if kind == "github":
        digest = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
        own = {"x-github-event": "pull_request", "x-github-delivery": IDS[kind]}
        return {**json_, **own, "x-hub-signature-256": f"sha256={digest}"}
    if kind == "stripe":
        header = stripe.WebhookSignature.generate_signature_header(text, secret, timestamp=now)
        return {**json_, "stripe-signature": header}
    if kind == "slack":
        signature = SignatureVerifier(secret).generate_signature(timestamp=str(now), body=body)
        assert signature
        return {**json_, "x-slack-request-timestamp": str(now), "x-slack-signature": signature}
    if kind == "standard":
        signature = Webhook(secret).sign(IDS[kind], datetime.fromtimestamp(now, UTC), text)
        own = {"webhook-id": IDS[kind], "webhook-timestamp": str(now), "webhook-signature": signature}
        return {**json_, **own}
    digest64 = base64.b64encode(hmac.digest(secret.encode(), body, "sha256")).decode()
    return {**json_, "x-delivery": "delivery-1", "x-shop-signature": digest64}


@pytest.fixture
def service(shared_service: Shared) -> Service:
    return shared_service(HANDLER, workers=1)


def make(
    service: Service, kind: str, name: str, type_: str = "hooked.{event}", **more: Any
) -> dict[str, Any]:
    own = {"signature_header": "x-shop-signature", "id_header": "x-delivery"} if kind == "hmac" else {}
    fields = {"name": name, "kind": kind, "type": type_, "secret": SECRETS[kind], **own, **more}
    source: dict[str, Any] = service.ok("POST", "/v1/sources", fields)
    return source


def post(service: Service, name: str, body: bytes, headers: Any) -> httpx.Response:
    url = f"{service.url}/v1/hooks/{name}"
    return as_described(service.client.post(url, content=body, headers=headers))


def send(service: Service, kind: str, name: str, body: Any, **changed: str) -> httpx.Response:
    """Send a body, signed with the secret. `changed`: headers that are not signed."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    more = {name.replace("_", "-"): value for name, value in changed.items()}
    return post(service, name, raw, {**headers_of(kind, raw, SECRETS[kind]), **more})


def stored(service: Service, name: str) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = service.ok("GET", f"/v1/events?source=/hooks/{name}")["items"]
    return items


@pytest.mark.parametrize("kind", KINDS)
def test_a_webhook_becomes_an_event_once(service: Service, kind: str) -> None:
    make(service, kind, f"once-{kind}")
    for duplicate in (False, True):
        answer = send(service, kind, f"once-{kind}", BODIES[kind])
        assert answer.status_code == (200 if kind == "slack" else 202), answer.text
        if kind == "slack":
            assert not answer.content
        else:
            assert answer.json()["event"]["duplicate"] is duplicate
    (event,) = stored(service, f"once-{kind}")
    assert (event["type"], event["id"], event["data"]) == (f"hooked.{NAMES[kind]}", IDS[kind], BODIES[kind])
    assert service.run_of(event["seq"])["state"] == "succeeded"


def test_github_signs_with_its_own_library(service: Service) -> None:
    make(service, "github", "octokit")
    body = json.dumps({"action": "opened", "title": "æøå 🚀"}, ensure_ascii=False)
    signed = Node().run("webhooks.mjs", SECRETS["github"], stdin=body)
    assert signed.returncode == 0, signed.stderr
    headers = headers_of("github", b"", SECRETS["github"]) | {"x-hub-signature-256": signed.stdout}
    assert post(service, "octokit", body.encode(), headers).status_code == 202
    assert stored(service, "octokit")[0]["data"]["title"] == "æøå 🚀"


def forged(kind: str, body: bytes) -> dict[str, tuple[bytes, Any]]:
    """Return bodies with headers that must be refused, by what is wrong."""
    right = headers_of(kind, body, SECRETS[kind])
    (name,) = (name for name in right if name.endswith(("signature", "signature-256")))
    value = right[name]
    other = "slack" if kind == "github" else "github"
    found: dict[str, tuple[bytes, Any]] = {
        "another body": (body + b" ", right),
        "another secret": (body, headers_of(kind, body, "whsec_" + "QUJD" * 8)),
        "a truncated signature": (body, {**right, name: value[:-4]}),
        "an empty signature": (body, {**right, name: ""}),
        "no signature": (body, {key: each for key, each in right.items() if key != name}),
        "two signatures": (body, [*right.items(), (name, value)]),
        "the headers of another kind": (body, headers_of(other, body, SECRETS[kind])),
        "no header": (body, {}),
    }  # fmt: skip
    if kind in {"stripe", "slack", "standard"}:
        found["an old signature"] = body, headers_of(kind, body, SECRETS[kind], 310)
        found["a signature of tomorrow"] = body, headers_of(kind, body, SECRETS[kind], -86_400)
    if kind == "stripe":
        found["another time"] = body, {**right, name: value.replace("t=", "t=1")}
        found["two times"] = body, {**right, name: f"t={int(time.time())},{value}"}
        found["the scheme of tests"] = body, {**right, name: value.replace("v1=", "v0=")}
    if kind == "slack":
        found["another time"] = body, {**right, "x-slack-request-timestamp": str(int(time.time()) + 1)}
        found["a time that is none"] = body, {**right, "x-slack-request-timestamp": "now"}
    if kind == "standard":
        found["another id"] = body, {**right, "webhook-id": "msg_other"}
        found["another version"] = body, {**right, name: value.replace("v1,", "v1a,")}
        found["many signatures"] = body, {**right, name: " ".join(["v1," + "A" * 43 + "="] * 20 + [value])}
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_forged_webhooks_get_the_answer_of_an_unknown_name_and_store_nothing(
    service: Service, kind: str
) -> None:
    make(service, kind, f"forged-{kind}")
    body = json.dumps(BODIES[kind]).encode()
    unknown = send(service, kind, "no-such-source", body)
    assert unknown.status_code == 401
    assert unknown.headers["content-type"] == "application/problem+json"
    for what, (sent, headers) in forged(kind, body).items():
        answer = post(service, f"forged-{kind}", sent, headers)
        assert (answer.status_code, answer.content) == (401, unknown.content), what
    assert stored(service, f"forged-{kind}") == stored(service, "no-such-source") == []
    assert send(service, kind, f"forged-{kind}", body).is_success
    if kind == "github":
        service.logged(f"webhooks for the source 'forged-{kind}' were refused")
        assert not any(secret in service.log.read_text() for secret in SECRETS.values())


def test_a_signature_may_be_one_of_several(service: Service) -> None:
    """While a sender changes its secret, it signs with both."""
    make(service, "stripe", "several-stripe")
    make(service, "standard", "several-standard")
    for kind, header in (("stripe", "stripe-signature"), ("standard", "webhook-signature")):
        body = json.dumps(BODIES[kind]).encode()
        right = headers_of(kind, body, SECRETS[kind])
        wrong = headers_of(kind, body, "whsec_" + "QUJD" * 8)[header]
        both = f"{wrong},{right[header].split(',')[1]}" if kind == "stripe" else f"{wrong} {right[header]}"
        assert post(service, f"several-{kind}", body, {**right, header: both}).status_code == 202


def test_two_secrets_are_valid_during_rotation(service: Service) -> None:
    source = make(service, "github", "rotated", secret=None)
    old, body = source["secret"], b'{"n": 1}'

    def status(secret: str) -> int:
        return post(service, "rotated", body, headers_of("github", body, secret)).status_code

    assert status(old) == 202
    changed = service.ok("PATCH", "/v1/sources/rotated", {"secret": None})
    new = changed["secret"]
    assert new != old
    assert changed["previous_secret_until"] > changed["updated_at"]
    assert (status(old), status(new)) == (202, 202)
    assert (
        service.ok("PATCH", "/v1/sources/rotated", {"previous_secret_until": None})["previous_secret_until"]
        is None
    )
    assert (status(old), status(new)) == (401, 202)
    third = "the third secret of all"
    service.ok(
        "PATCH", "/v1/sources/rotated", {"secret": third, "previous_secret_until": "2001-01-01T00:00:00Z"}
    )
    assert (status(new), status(third)) == (401, 202)
    shown = json.dumps(
        [service.ok("GET", "/v1/sources/rotated"), service.ok("GET", "/v1/sources?limit=1000")]
    )
    assert not any(secret in shown for secret in (old, new, third))


def test_slack_gets_its_challenge_back(service: Service) -> None:
    make(service, "slack", "challenged", paused=True)
    body = {
        "token": "t",
        "challenge": "3eZbrw1aBm2rZgRNFdxV2595E9CY3gmdALWMmHkvFXO7tYXAYM8P",
        "type": "url_verification",
    }
    answer = send(service, "slack", "challenged", body)
    assert (answer.status_code, answer.text) == (200, body["challenge"])
    raw = json.dumps(body).encode()
    assert post(service, "challenged", raw, headers_of("slack", raw, "not its secret")).status_code == 401
    assert stored(service, "challenged") == []


def test_a_ping_of_github_stores_nothing(service: Service) -> None:
    make(service, "github", "pinged")
    answer = send(service, "github", "pinged", {"zen": "Keep it logically awesome."}, x_github_event="ping")
    assert (answer.status_code, answer.json()) == (202, {"event": None})
    assert stored(service, "pinged") == []


def test_forms_are_decoded(service: Service) -> None:
    form = {"content_type": "application/x-www-form-urlencoded; charset=utf-8"}
    make(service, "slack", "commands", "hooked.{event}.{data.channel_name}")
    command = {
        "command": "/weather",
        "text": "94070 ä",
        "trigger_id": "13345224609.738474920",
        "channel_name": "test",
    }
    assert send(service, "slack", "commands", urlencode(command).encode(), **form).status_code == 200
    clicked = {"type": "block_actions", "user": {"id": "U1"}, "actions": [{"value": "x"}]}
    body = b"payload=" + quote_plus(json.dumps(clicked)).encode()
    for _ in range(2):
        assert send(service, "slack", "commands", body, **form).status_code == 200
    events = {event["type"]: event["data"] for event in stored(service, "commands")}
    assert events == {"hooked.command.test": command, "hooked.block_actions": clicked}
    make(service, "github", "forms")
    assert send(service, "github", "forms", body, **form).status_code == 202
    assert stored(service, "forms")[0]["data"] == clicked
    make(service, "hmac", "any-form", "hooked.any")
    assert send(service, "hmac", "any-form", b"a=1&b=&a=2", **form).status_code == 202
    assert stored(service, "any-form")[0]["data"] == {"a": ["1", "2"], "b": ""}


def test_a_body_that_is_not_json_is_bytes(service: Service) -> None:
    make(service, "hmac", "binary", "hooked.binary.{data.kind}")
    body = b"\x89PNG\r\n\x1a\n\x00\xff"
    answer = send(service, "hmac", "binary", body, content_type="image/png")
    event = service.ok("GET", f"/v1/events/{answer.json()['event']['seq']}")
    assert base64.b64decode(event["data_base64"]) == body
    assert (event["type"], event["datacontenttype"]) == ("hooked.binary", "image/png")
    headers = headers_of("hmac", b"", SECRETS["hmac"]) | {"x-delivery": "empty"}
    assert post(service, "binary", b"", headers).status_code == 202
    assert stored(service, "binary")[0]["data"] is None


BAD: dict[str, tuple[int, Callable[[], tuple[bytes, Headers]]]] = {
    "not JSON": (400, lambda: (b'{"a": NaN}', {})),
    "not UTF-8": (400, lambda: (b'{"a": "\xff"}', {})),
    "deep": (400, lambda: (b"[" * 101 + b"]" * 101, {})),
    "a bad form": (400, lambda: (b"a=%FF", {"content-type": "application/x-www-form-urlencoded"})),
    "compressed": (415, lambda: (b"{}", {"content-encoding": "gzip"})),
    "no id": (422, lambda: (b"{}", {"x-delivery": ""})),
    "an id that is too long": (422, lambda: (b"{}", {"x-delivery": "i" * 256})),
    "an id with a control character": (422, lambda: (b"{}", {"x-delivery": "a\x85b"})),
    "a type with a space": (422, lambda: (b'{"type": "a b"}', {})),
    "a type with a star": (422, lambda: (b'{"type": "*"}', {})),
    "a type that is too long": (422, lambda: (b'{"type": "%b"}' % (b"t" * 260), {})),
    "too large": (413, lambda: (b'"%b"' % (b"a" * 1_048_576), {})),
    "much too large": (413, lambda: (b'"%b"' % (b"a" * 2_000_000), {})),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_what_cannot_be_an_event_is_refused(service: Service, what: str) -> None:
    name = f"bad-{list(BAD).index(what)}"
    make(service, "hmac", name)
    status, build = BAD[what]
    body, changed = build()
    raw = [(key.encode(), value.encode("latin-1")) for key, value in
           {**headers_of("hmac", body, SECRETS["hmac"]), **changed}.items()]  # fmt: skip
    answer = post(service, name, body, raw)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert stored(service, name) == []


def test_a_filter_leaves_out_and_a_pause_puts_off(service: Service) -> None:
    make(service, "hmac", "chosen", filter={"exact": {"data.parcel": 3}})
    assert send(service, "hmac", "chosen", {"parcel": 4}, x_delivery="4").json() == {"event": None}
    assert send(service, "hmac", "chosen", {"parcel": 3}, x_delivery="3").json()["event"]["id"] == "3"
    assert service.ok("PATCH", "/v1/sources/chosen", {"paused": True, "filter": None})["paused"] is True
    answer = send(service, "hmac", "chosen", {"parcel": 5}, x_delivery="5")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "60")
    service.ok("PATCH", "/v1/sources/chosen", {"paused": False})
    assert send(service, "hmac", "chosen", {"parcel": 5}, x_delivery="5").status_code == 202
    assert [event["id"] for event in stored(service, "chosen")] == ["5", "3"]
    assert service.request("DELETE", "/v1/sources/chosen").status_code == 204
    assert send(service, "hmac", "chosen", {"parcel": 6}).status_code == 401
    for method, body in (("GET", None), ("PATCH", {"paused": False}), ("DELETE", None)):
        assert service.request(method, "/v1/sources/chosen", json=body).status_code == 404


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"name": "Caps"}, "name"),
        ({"kind": "gitlab"}, "kind"),
        ({"type": "a b"}, "type"),
        ({"type": "t.{x}"}, "type"),
        ({"type": "t.{event"}, "type"),
        ({"type": "{header.A}"}, "type"),
        ({"type": "{event}" * 17}, "type"),
        ({"secret": "short"}, "secret"),
        ({"secret": "control\x01character"}, "secret"),
        ({"kind": "stripe", "secret": None}, "secret"),
        ({"kind": "slack", "secret": None}, "secret"),
        ({"kind": "standard", "secret": "whsec_not base64!"}, "secret"),
        ({"filter": {}}, "filter"),
        ({"id_header": "x-id"}, "id_header"),
        ({"kind": "hmac", "signature_header": "X Y"}, "signature_header"),
        ({"unknown": 1}, "unknown"),
    ],
)
def test_a_bad_source_is_refused(service: Service, fields: dict[str, Any], where: str) -> None:
    answer = service.post("/v1/sources", {"name": "bad", "kind": "github", "type": "t", **fields})
    assert answer.status_code == 422, answer.text
    assert where in {error["loc"][1] for error in answer.json()["errors"]}
    assert service.get("/v1/sources/bad").status_code == 404


def test_a_name_is_taken_once(service: Service) -> None:
    make(service, "github", "taken")
    make(service, "github", "taken-not")
    again = service.post("/v1/sources", {"name": "taken", "kind": "github", "type": "other"})
    assert again.status_code == 409
    assert service.ok("GET", "/v1/sources/taken")["type"] == "hooked.{event}"
    assert service.request("PATCH", "/v1/sources/taken", json={"name": "other"}).status_code == 422
    names = [source["name"] for source in service.ok("GET", "/v1/sources?limit=1000")["items"]]
    assert names == sorted(names)
    assert service.ok("GET", f"/v1/sources?limit=1&after={names[0]}")["items"][0]["name"] == names[1]


def test_the_rules_for_the_open_gateway_do_not_hold_for_signed_requests(service: Service) -> None:
    make(service, "github", "proxied")
    through = {"host": "hooks.example.com", "x_forwarded_for": "203.0.113.9", "origin": "https://github.com"}
    assert send(service, "github", "proxied", {}, **through).status_code == 202
    assert service.get("/v1/sources", headers={"host": "hooks.example.com"}).status_code == 421
