"""Handlers whose target is a URL: what is sent, and what an answer means."""

from __future__ import annotations

import email.utils
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from standardwebhooks.webhooks import Webhook

from tests.servers.sinks import Request, Sink, answer, certificate, ok, server_context, sink

from .service import Service, until
from .webhooks import register, run

CODE = """
from busway import handler

@handler("nothing")
def nothing(event):
    pass
"""
LARGEST = 100_000  # bytes of a result


@pytest.fixture(scope="module")
def files(tmp_path_factory: Any) -> Any:
    return certificate(tmp_path_factory.mktemp("certificate"))


@pytest.fixture(scope="module")
def receiver() -> Iterator[Sink]:
    with sink() as made:
        yield made


@pytest.fixture(scope="module")
def service(tmp_path_factory: Any, files: Any) -> Iterator[Service]:
    service = Service(
        tmp_path_factory.mktemp("webhooks"), allow_target="127.0.0.0/8", workers=1, max_result_bytes=LARGEST
    )
    service.variables["SSL_CERT_FILE"] = str(files[0])
    service.write("functions.py", CODE)
    yield service.start()
    service.close()


def result_of(service: Service, run: dict[str, Any]) -> dict[str, Any]:
    [item] = [each for each in service.results(handlers=run["handler"]) if each["run"] == run["id"]]
    return item


# -- what is sent


def test_an_event_is_sent_in_binary_mode_and_signed(service: Service, receiver: Sink) -> None:
    made = register(service, "sent", f"{receiver.url}/sent?a=1")
    assert made["secret"].startswith("whsec_")
    assert made["placed_in"] == {
        "pool": "http", "reason": "its target is a URL", "since": made["created_at"],
    }  # fmt: skip
    event = {"type": "sent", "data": {"n": 1}, "subject": 'å "%', "source": "/s", "id": "a b", "flag": True}
    seq = service.ok("POST", "/v1/events", event)["seq"]
    done = service.run_of(seq)
    [request] = receiver.got("/sent?a=1")
    assert request.body == b'{"n":1}'
    headers = request.headers
    assert headers["content-type"] == "application/json"
    assert (headers["ce-specversion"], headers["ce-id"], headers["ce-source"], headers["ce-type"]) == (
        "1.0", "a%20b", "/s", "sent",
    )  # fmt: skip
    assert (headers["ce-subject"], headers["ce-flag"]) == ("%C3%A5%20%22%25", "true")
    assert (headers["busway-run"], headers["busway-attempt"]) == (str(done["id"]), "1")
    assert Webhook(made["secret"]).verify(request.body, headers) == {"n": 1}
    [attempt] = done["attempts"]
    assert (attempt["pool"], attempt["worker"], attempt["outcome"]) == ("http", None, "succeeded")
    assert result_of(service, done)["data"] is None


def test_bytes_are_sent_as_they_came(service: Service, receiver: Sink) -> None:
    register(service, "bytes", f"{receiver.url}/bytes")
    headers = {"ce-specversion": "1.0", "ce-type": "bytes", "ce-id": "1", "ce-source": "/"}
    headers["content-type"] = "image/png"
    assert service.request("POST", "/v1/events", content=b"\x00\xff", headers=headers).status_code == 202
    until(lambda: receiver.got("/bytes"), "the request")
    [request] = receiver.got("/bytes")
    assert (request.body, request.headers["content-type"]) == (b"\x00\xff", "image/png")


def test_a_retry_has_the_same_id_and_the_next_attempt(service: Service, receiver: Sink) -> None:
    receiver.behaviours["/again"] = lambda r: (answer(500) if r.headers["busway-attempt"] == "1" else ok)(r)
    made = register(service, "again", f"{receiver.url}/again", backoff={"initial": 0})
    run(service, "again", 1)
    first, second = receiver.got("/again")
    assert first.headers["webhook-id"] == second.headers["webhook-id"]
    assert [each.headers["busway-attempt"] for each in (first, second)] == ["1", "2"]
    for each in (first, second):
        Webhook(made["secret"]).verify(each.body, each.headers)


@pytest.mark.one_node
def test_connections_are_used_again(service: Service, receiver: Sink) -> None:
    register(service, "kept", f"{receiver.url}/kept", concurrency=1)
    receipts = [service.publish("kept", n) for n in range(5)]
    service.all_finished(receipts)
    assert len({request.connection for request in receiver.got("/kept")}) == 1


def test_https_and_http2(service: Service, files: Any) -> None:
    with sink(server_context(*files)) as plain, sink(server_context(*files, "h2", "http/1.1")) as second:
        register(service, "tls", f"{plain.url}/tls")
        register(service, "two", f"{second.url}/two")
        assert run(service, "tls")["state"] == "succeeded"
        receipts = [service.publish("two", n) for n in range(20)]
        service.all_finished(receipts)
        [data] = {json.dumps(item["data"]) for item in service.results(handlers="two")}
        assert data == '{"http": 2}'
        assert sorted(json.loads(request.body) for request in second.got("/two")) == [*range(20)]
        assert second.connections <= len(service.urls)  # one for each node


def test_a_request_over_http2_that_takes_too_long_spoils_no_other(service: Service, files: Any) -> None:
    """The connection it went over gets no new requests: what its host still sends would take room there."""
    with sink(server_context(*files, "h2")) as second:
        second.behaviours["/never"] = lambda _: None
        register(service, "never2", f"{second.url}/never", max_attempts=1, timeout=0.5)
        register(service, "quick2", f"{second.url}/quick")
        assert run(service, "quick2")["state"] == "succeeded"
        assert run(service, "never2")["error"]["type"] == "Timeout"
        assert run(service, "quick2")["state"] == "succeeded"
        [never], quick = second.got("/never"), second.got("/quick")
        assert never.connection not in [request.connection for request in quick[-1:]]


@pytest.mark.one_node
def test_a_replay_says_so(service: Service, receiver: Sink) -> None:
    register(service, "replayed", f"{receiver.url}/replayed")
    run(service, "replayed", 1)
    for shadow in (False, True):
        started = service.ok("POST", "/v1/handlers/replayed/replay", {"shadow": shadow})
        until(lambda: len(receiver.got("/replayed")) == (3 if started["shadow"] else 2), "the request")  # noqa: B023
    headers = [request.headers for request in receiver.got("/replayed")]
    assert [each.get("busway-replay") for each in headers] == [None, "live", "shadow"]
    assert len({each["webhook-id"] for each in headers}) == 3


def test_a_certificate_of_another_name_or_issuer_is_refused(service: Service, tmp_path: Any) -> None:
    with sink(server_context(*certificate(tmp_path))) as stranger:
        register(service, "stranger", f"{stranger.url}/x", max_attempts=1)
        dead = run(service, "stranger")
        assert dead["error"]["type"] == "ConnectionError"
        assert "TLS with 127.0.0.1 failed" in dead["error"]["message"]
        assert not stranger.requests


# -- what an answer means

DEEP = "[" * 200 + "]" * 200


@pytest.mark.parametrize(
    ("name", "behaviour", "expected"),
    [
        ("json", answer(200, b'{"a": [1, 2]}', content_type="application/json"), {"data": {"a": [1, 2]}}),
        ("problem", answer(200, b"[1]", content_type="Application/X+JSON; a=b"), {"data": [1]}),
        ("untyped", answer(200, b"[2]"), {"data": [2]}),
        ("text", answer(201, "å".encode(), content_type="text/plain"), {"data": "å"}),
        ("broken", answer(200, b'{"a":', content_type="application/json"), {"data": '{"a":'}),
        ("nan", answer(200, b"NaN", content_type="application/json"), {"data": "NaN"}),
        ("deep", answer(200, DEEP.encode(), content_type="application/json"), {"data": DEEP}),
        ("image", answer(200, b"\x00\xff", content_type="image/png"), {"data_base64": "AP8="}),
        ("latin", answer(200, b"\xe5", content_type="text/plain"), {"data_base64": "5Q=="}),
        ("empty", answer(200), {"data": None}),
        ("full", answer(200, b"x" * LARGEST, content_type="text/plain"), {"data": "x" * LARGEST}),
    ],
)  # fmt: skip
def test_2xx_succeeds_with_the_body(
    service: Service, receiver: Sink, name: str, behaviour: Any, expected: dict[str, Any]
) -> None:
    receiver.behaviours[f"/r/{name}"] = behaviour
    register(service, f"r-{name}", f"{receiver.url}/r/{name}", max_attempts=1)
    item = result_of(service, run(service, f"r-{name}"))
    assert {key: item[key] for key in expected} == expected, item
    assert item["kind"] == "succeeded"


def flood(start: bytes, part: bytes) -> Any:
    """Answer without an end."""

    def send(request: Request) -> bytes:
        request.peer.sendall(start)
        while True:
            request.peer.sendall(part * 1000)

    return send


def chunk(body: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(body), body)


HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
FAILURES: dict[str, tuple[Any, str, str]] = {
    "error": (answer(500, b"<p>no\n\n\x00disk</p>"), "HTTPStatus", "500 Internal Server Error: <p>no"),
    "long": (answer(400, b"y" * 100_000), "HTTPStatus", "y" * 200),
    "odd": (answer(799), "HTTPStatus", "answered 799"),
    "moved": (answer(307, location="https://elsewhere.example/x"), "HTTPStatus", "https://elsewhere.example/x"),
    "garbage": (lambda _: b"\x16\x03\x01 what\r\n\r\n", "ProtocolError", "not HTTP"),
    "closes": (lambda _: b"", "ProtocolError", "not HTTP"),
    "half": (lambda r: r.peer.sendall(HALF) or b"", "ProtocolError", "not HTTP"),
    "silent": (lambda _: None, "Timeout", "ran longer than 0.5 s"),
    "endless": (flood(CHUNKED, chunk(b"x" * 100)), "ResultTooLarge", "--max-result-bytes"),
    "crumbs": (flood(CHUNKED, chunk(b"x")), "ResultTooLarge", "--max-result-bytes"),
    "declared": (answer(200, b"x" * (LARGEST + 1)), "ResultTooLarge", f"more than {LARGEST} bytes"),
    "headers": (flood(b"HTTP/1.1 200 OK\r\n", b"x-more: " + b"y" * 90 + b"\r\n"), "ProtocolError", ""),
    "interim": (flood(b"", b"HTTP/1.1 100 Continue\r\n\r\n"), "Timeout", ""),
    "injected": (answer(302, location="/\x1b[31m\tx"), "HTTPStatus", ""),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILURES)
def test_other_answers_fail_the_attempt(service: Service, receiver: Sink, name: str) -> None:
    behaviour, kind, words = FAILURES[name]
    receiver.behaviours[f"/f/{name}"] = behaviour
    timeout = 0.5 if kind == "Timeout" else 60
    register(service, f"f-{name}", f"{receiver.url}/f/{name}", max_attempts=1, timeout=timeout)
    dead = run(service, f"f-{name}")
    assert dead["state"] == "dead"
    assert dead["error"]["type"] == kind, dead["error"]
    assert words in dead["error"]["message"]
    assert len(dead["error"]["message"]) < 800
    assert "\x1b" not in dead["error"]["message"]
    register(service, f"f-{name}-next", f"{receiver.url}/next", max_attempts=1)
    assert run(service, f"f-{name}-next")["state"] == "succeeded"


@pytest.mark.parametrize(
    ("name", "status", "after", "seconds"),
    [
        ("seconds", 429, "1000", 1000),
        ("capped", 503, "999999999", 86_400),
        ("date", 503, "DATE", 1000),
        ("nonsense", 429, "soon", 5000),
        ("other", 500, "1000", 5000),
    ],
)
def test_429_and_503_choose_the_time_of_the_next_attempt(
    service: Service, receiver: Sink, name: str, status: int, after: str, seconds: int
) -> None:
    value = email.utils.formatdate(time.time() + 1000, usegmt=True) if after == "DATE" else after
    receiver.behaviours[f"/w/{name}"] = answer(status, retry_after=value)
    backoff = {"initial": 5000, "max": 5000, "jitter": 0}
    register(service, f"w-{name}", f"{receiver.url}/w/{name}", backoff=backoff)
    seq = service.publish(f"w-{name}")["seq"]

    def waits() -> Any:
        [found] = service.ok("GET", f"/v1/events/{seq}")["runs"]
        return found if found["state"] == "retryable" else None

    found = until(waits, "the first attempt")
    [attempt] = service.ok("GET", f"/v1/runs/{found['id']}")["attempts"]
    assert abs(at(found["available_at"]) - at(attempt["finished_at"]) - seconds) < (
        60 if after == "DATE" else 1
    )


def at(text: str) -> float:
    return email.utils.datetime.datetime.fromisoformat(text).timestamp()  # type: ignore[attr-defined,no-any-return]


@pytest.mark.long
def test_410_pauses_the_handler_and_the_run_waits(service: Service, receiver: Sink) -> None:
    receiver.behaviours["/gone"] = answer(410)
    register(service, "gone", f"{receiver.url}/gone", max_attempts=1, backoff={"initial": 0})
    seq = service.publish("gone")["seq"]
    paused = until(lambda: (found := service.ok("GET", "/v1/handlers/gone"))["paused"] and found, "the pause")
    assert paused["waits_because"] == "it is paused: its URL answered 410 Gone"
    assert paused["revision"] == 1
    [waiting] = service.ok("GET", f"/v1/events/{seq}")["runs"]
    assert waiting["state"] == "retryable"
    receiver.behaviours["/gone"] = ok
    resumed = service.ok("POST", "/v1/handlers/gone/resume")
    assert resumed["waits_because"] is None
    assert service.run_of(seq)["state"] == "succeeded"


# -- secrets


def test_a_secret_is_shown_once_and_two_sign_during_a_rotation(service: Service, receiver: Sink) -> None:
    first = register(service, "secret", f"{receiver.url}/secret")
    assert first["secret_since"] == first["created_at"]
    assert first["previous_secret_until"] is None
    second = service.ok("POST", "/v1/handlers/secret/secret")
    assert second["revision"] == 1
    assert at(second["previous_secret_until"]) - at(second["secret_since"]) == 86_400
    third = service.ok("POST", "/v1/handlers/secret/secret")
    secrets = [each["secret"] for each in (first, second, third)]
    assert len({*secrets}) == 3
    assert run(service, "secret", {"n": 1})["state"] == "succeeded"
    [request] = receiver.got("/secret")
    signed = request.headers["webhook-signature"].split()
    assert len(signed) == 2
    for each in secrets[1:]:
        assert Webhook(each).verify(request.body, request.headers) == {"n": 1}
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(secrets[0]).verify(request.body, request.headers)
    answers = [
        service.get(path).text
        for path in ("/v1/handlers/secret", "/v1/handlers", "/v1/handlers/secret/revisions", "/v1/status")
    ]
    patched = service.request("PATCH", "/v1/handlers/secret", json={"description": "x"}).text
    again = service.request("PATCH", "/v1/handlers/secret", json={}).text
    shown = "".join([*answers, patched, again, service.log.read_text()])
    assert "whsec_" not in shown
    assert not any(each in shown for each in secrets)


def test_a_new_handler_has_a_new_secret_and_a_changed_one_keeps_it(service: Service, receiver: Sink) -> None:
    register(service, "becomes", f"{receiver.url}/becomes")
    service.ok("DELETE", "/v1/handlers/becomes")
    again = register(service, "becomes", f"{receiver.url}/becomes")
    moved = service.ok("PATCH", "/v1/handlers/becomes", {"target": f"{receiver.url}/moved"})
    assert (moved["revision"], "secret" in moved) == (again["revision"] + 1, False)
    run(service, "becomes", [1])
    [request] = receiver.got("/moved")
    assert Webhook(again["secret"]).verify(request.body, request.headers) == [1]


def test_only_what_is_sent_is_signed(service: Service) -> None:
    assert service.request("POST", "/v1/handlers/nothing/secret").status_code == 409
    assert service.request("POST", "/v1/handlers/nobody/secret").status_code == 404
    function = service.ok("GET", "/v1/handlers/nothing")
    assert (function["secret_since"], function["previous_secret_until"]) == (None, None)


def test_a_handler_of_the_code_gets_a_secret_with_its_url(service: Service, receiver: Sink) -> None:
    url = f"{receiver.url}/instead"
    changed = service.ok("PATCH", "/v1/handlers/nothing", {"target": url})
    assert service.ok("PATCH", "/v1/handlers/nothing", {"target": url}).get("secret") is None
    run(service, "nothing", {})
    [request] = receiver.got("/instead")
    assert Webhook(changed["secret"]).verify(request.body, request.headers) == {}
    back = service.ok("PATCH", "/v1/handlers/nothing", {"target": None})
    assert (back["target"], back["placed_in"]["pool"]) == ("functions:nothing", "process")
    assert run(service, "nothing")["attempts"][0]["pool"] == "process"


# -- what is refused


@pytest.mark.parametrize("url", ["https://10.0.0.1/", "https://u:p@example.com/", "https://0x7f000001/"])
def test_urls_that_no_event_may_go_to_are_refused(service: Service, url: str) -> None:
    answered = service.post("/v1/handlers", {"name": "refused", "target": url, "events": ["refused"]})
    assert answered.status_code == 422, answered.text
    assert [error["loc"] for error in answered.json()["errors"]] == [["body", "target"]]


def test_fields_of_functions_are_refused(service: Service, receiver: Sink) -> None:
    new = {"name": "fields", "target": f"{receiver.url}/x", "events": ["fields"]}
    for field, value in (("pool", "thread"), ("memory", 10)):
        answered = service.post("/v1/handlers", {**new, field: value})
        assert answered.status_code == 422
        assert [error["loc"] for error in answered.json()["errors"]] == [["body", field]]
    service.ok("POST", "/v1/handlers", new)
    assert service.request("PATCH", "/v1/handlers/fields", json={"pool": "auto"}).status_code == 422
    bad = {"target": "https://192.168.0.1/"}
    assert service.request("PATCH", "/v1/handlers/fields", json=bad).status_code == 422


# -- limits, trials, the end of a gateway


class Gate:
    """Holds requests until it is opened, and knows how many it held at once."""

    def __init__(self) -> None:
        self.held = self.most = 0
        self._lock, self.open = threading.Lock(), threading.Event()

    def __call__(self, request: Request) -> bytes:
        with self._lock:
            self.held += 1
            self.most = max(self.most, self.held)
        self.open.wait(60)
        with self._lock:
            self.held -= 1
        return ok(request)


def test_concurrency_and_order(service: Service, receiver: Sink) -> None:
    gate = Gate()
    receiver.behaviours["/few"] = gate
    register(service, "few", f"{receiver.url}/few", concurrency=2)
    receipts = [service.publish("few", n) for n in range(6)]
    until(lambda: gate.held == 2, "two requests")
    gate.open.set()
    service.all_finished(receipts)
    assert gate.most == 2
    register(service, "line", f"{receiver.url}/line", ordered=True)
    receipts = [service.publish("line", n, partitionkey=f"k{n % 2}") for n in range(20)]
    service.all_finished(receipts)
    got = [json.loads(request.body) for request in receiver.got("/line")]
    assert [n for n in got if n % 2] == [*range(1, 20, 2)]
    assert [n for n in got if not n % 2] == [*range(0, 20, 2)]


def test_a_rate_holds_and_a_run_that_waits_for_its_next_attempt_keeps_its_key(
    service: Service, receiver: Sink
) -> None:
    register(service, "rated", f"{receiver.url}/rated", rate="1/h")
    receipts = [service.publish("rated", n) for n in range(3)]
    assert service.run_of(receipts[0]["seq"])["state"] == "succeeded"
    later = answer(503, retry_after="1000")
    receiver.behaviours["/again-later"] = lambda r: (later if r.body == b"0" else ok)(r)
    register(service, "keyed", f"{receiver.url}/again-later", ordered=True)
    first = service.publish("keyed", 0, partitionkey="k")["seq"]
    behind = service.publish("keyed", 1, partitionkey="k")["seq"]
    other = service.publish("keyed", 2, partitionkey="other")["seq"]
    assert service.run_of(other)["state"] == "succeeded"

    def state(seq: int) -> str:
        [found] = service.ok("GET", f"/v1/events/{seq}")["runs"]
        return str(found["state"])

    until(lambda: state(first) == "retryable", "the answer of 503")
    assert state(behind) == "available"
    assert [state(receipt["seq"]) for receipt in receipts[1:]] == ["available"] * 2
    assert len(receiver.got("/rated")) == 1
    service.ok("PATCH", "/v1/handlers/rated", {"rate": None})
    service.all_finished(receipts)
    assert sorted(request.body for request in receiver.got("/rated")) == [b"0", b"1", b"2"]
    service.ok("POST", f"/v1/events/{first}/cancel")
    assert service.run_of(behind)["state"] == "succeeded"


def test_a_run_is_cancelled_while_it_is_sent(service: Service, receiver: Sink) -> None:
    gate = Gate()
    receiver.behaviours["/cancel"] = gate
    register(service, "cancel", f"{receiver.url}/cancel", concurrency=1)
    first, second = service.publish("cancel", 1), service.publish("cancel", 2)
    until(lambda: gate.held, "the request")
    [run_] = service.ok("GET", f"/v1/events/{first['seq']}")["runs"]
    service.ok("POST", f"/v1/runs/{run_['id']}/cancel")
    gate.open.set()
    assert service.run_of(second["seq"])["state"] == "succeeded"
    assert service.run_of(first["seq"])["state"] == "cancelled"


def test_a_handler_is_tested(service: Service, receiver: Sink) -> None:
    receiver.behaviours["/tried"] = answer(200, b'{"ok": true}', content_type="application/json")
    made = register(service, "tried", f"{receiver.url}/tried")
    tried = service.ok("POST", "/v1/handlers/tried/test", {"event": {"type": "other", "data": 5}})
    assert (tried["outcome"], tried["data"], tried["pool"], tried["matches"]) == (
        "succeeded", {"ok": True}, "http", False,
    )  # fmt: skip
    [request] = receiver.got("/tried")
    assert Webhook(made["secret"]).verify(request.body, request.headers) == 5
    receiver.behaviours["/tried"] = answer(410)
    tried = service.ok("POST", "/v1/handlers/tried/test", {"event": {"type": "other"}})
    assert tried["error"]["type"] == "HTTPStatus"
    assert not service.ok("GET", "/v1/handlers/tried")["paused"]
