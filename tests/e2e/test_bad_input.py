"""Bad input: a clear problem that names the place; nothing stored, nothing closed that need not be."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from .service import Service, hear, say


@pytest.fixture(scope="module")
def service(tmp_path_factory: Any) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("bad"), max_event_bytes=2000, max_body_bytes=10_000, workers=1)
    service.write(
        "all.py",
        "from os import system\nfrom json import dumps\n"
        "def ok(event): return event.data\ndef _hidden(event): pass\n",
    )
    service.write("broken.py", "import nothing_of_that_name\n")
    service.start()
    service.ok("POST", "/v1/handlers", {"name": "ok", "target": "all:ok", "events": ["t"]})
    yield service
    service.close()


@pytest.fixture(autouse=True)
def nothing_is_stored(service: Service) -> Iterator[None]:
    def stored() -> tuple[Any, Any]:
        handlers = service.ok("GET", "/v1/handlers")["items"]
        for handler in handlers:
            del handler["placed_in"]  # each node says since when
        return service.ok("GET", "/v1/events?limit=1")["items"], handlers

    before = stored()
    yield
    assert stored() == before


BODIES = {
    "no JSON": (b"{", 400, "JSON"),
    "two values": (b'{"type":"t"} {}', 400, "JSON"),
    "NaN": (b'{"type":"t","data":NaN}', 400, "JSON"),
    "beyond a double": (b'{"type":"t","data":1e999}', 400, "number"),
    "an integer beyond a double": (b'{"type":"t","data":' + b"9" * 400 + b"}", 400, "number"),
    "bad UTF-8": (b'{"type":"t","data":"\xff"}', 400, "utf-8"),
    "a lone surrogate": (
        b'{"type":"t","data":"\\ud800"}',
        400,
        "byte 20 it has the lone surrogate \\ud800",
    ),
    "a lone low surrogate": (b'{"type":"t","data":"\\\\\\uDC00"}', 400, "lone surrogate \\udc00"),
    "a lone surrogate in a name": (b'{"type":"t","data":{"\\udfff":1}}', 400, "lone surrogate \\udfff"),
    "a pair the wrong way round": (b'{"type":"t","data":"\\ude00\\ud83d"}', 400, "lone surrogate \\ude00"),
    "a surrogate in UTF-8": (b'{"type":"t","data":"\xed\xa0\x80"}', 400, "utf-8"),
    "a BOM": (b'\xef\xbb\xbf{"type":"t"}', 400, "BOM"),
    "UTF-16": ('{"type":"t"}'.encode("utf-16"), 400, "UTF-16"),
    "a leap second that is none": (b'{"type":"t","time":"2026-01-31T12:00:61Z"}', 422, "time"),
    "101 levels": (b'{"type":"t","data":' + b"[" * 100 + b"]" * 100 + b"}", 400, "100"),
    "900 levels": (b"[" * 900 + b"]" * 900, 400, "100"),
    "a string": (b'"t"', 422, "event"),
    "an empty array": (b"[]", 422, "10000"),
    "no type": (b"{}", 422, "type"),
    "a number as type": (b'{"type":1}', 422, "type"),
    "an empty type": (b'{"type":""}', 422, "type"),
    "a star in the type": (b'{"type":"a.*"}', 422, "type"),
    "white space in the type": (b'{"type":"a b"}', 422, "type"),
    "a control character": (b'{"type":"a\\u0000"}', 422, "type"),
    "a long type": (b'{"type":"' + b"a" * 256 + b'"}', 422, "type"),
    "an unknown member": (b'{"type":"t","Data":1}', 422, "Data"),
    "a control character in an attribute": (b'{"type":"t","colour":"a\\u0001"}', 422, "colour"),
    "a week as time": (b'{"type":"t","time":"2026-W10-1T12:00:00Z"}', 422, "time"),
    "an object as attribute": (b'{"type":"t","colour":{}}', 422, "colour"),
    "a bad time": (b'{"type":"t","time":"yesterday"}', 422, "time"),
    "a bad priority": (b'{"type":"t","priority":10}', 422, "priority"),
    "a true priority": (b'{"type":"t","priority":true}', 422, "priority"),
    "a bad deliverat": (b'{"type":"t","deliverat":"2026-01-01"}', 422, "deliverat"),
    "another specversion": (b'{"type":"t","specversion":"0.3"}', 422, "specversion"),
    "the gateway's own word": (b'{"type":"t","seq":5}', 422, "seq"),
    "bad base64": (b'{"type":"t","data_base64":"*"}', 422, "data_base64"),
    "two payloads": (b'{"type":"t","data":1,"data_base64":""}', 422, "data_base64"),
    "the second of an array": (b'[{"type":"t"},{"type":5}]', 422, "[1].type"),
    "a large event": (b'{"type":"t","data":"' + b"a" * 2000 + b'"}', 413, "2000"),
    "a large body": (b'{"type":"t","data":"' + b"a" * 10_000 + b'"}', 413, "10000"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_bad_event_is_refused(service: Service, name: str) -> None:
    body, status, word = BODIES[name]
    answer = service.request("POST", "/v1/events", content=body, headers={"Content-Type": "application/json"})
    problem = answer.json()
    assert answer.status_code == problem["status"] == status, problem
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert problem.keys() >= {"type", "title", "status", "detail"}
    assert word.lower() in problem["detail"].lower()
    if status == 422:
        assert problem["errors"][0]["loc"][0] == "body"


def test_a_leap_second_and_small_letters_are_a_time(service: Service) -> None:
    for name in ("time", "deliverat", "expirytime"):
        event = {"type": "t", "data_base64": "*", name: "2016-12-31t23:59:60.123456789z"}
        assert places(service.post("/v1/events", event)) == ["body.data_base64"]  # and nothing else is bad
    wanted = {"exact": {"time": "2016-12-31T23:59:60." + "0" * 50 + "Z"}}
    trial = {"event": {"type": "t", "time": "2017-01-01T00:00:00+00:00"}}
    assert service.ok("POST", "/v1/handlers/ok/test", trial)["outcome"] == "succeeded"
    assert service.get("/v1/results").status_code == 200
    with service.subscribed(filter=wanted):
        pass
    key = {"name": "x", "scopes": ["admin"], "expires_at": "2016-12-31T23:59:60Z"}
    assert "in the past" in service.post("/v1/keys", key).text


def places(answer: Any) -> list[str]:
    """Where the bad fields are, as the answer says."""
    assert answer.status_code == 422, answer.text
    assert all(error["msg"] for error in answer.json()["errors"])
    return [".".join(map(str, error["loc"])) for error in answer.json()["errors"]]


def test_every_bad_field_is_named_at_once(service: Service) -> None:
    events = [{"type": "t"}, {"type": "a b", "priority": 10}, 5, {"colour": {}}]
    answer = service.post("/v1/events", events)
    assert places(answer) == [
        "body.1.type", "body.1.priority", "body.2", "body.3.type", "body.3.colour",
    ]  # fmt: skip
    assert answer.json()["detail"].endswith("(and 4 more)")
    bad = {"name": "X", "events": ["a..b"], "rate": "1", "filter": {"near": 1}, "colour": "red"}
    fields = ["name", "target", "events", "filter", "rate", "colour"]
    assert places(service.post("/v1/handlers", bad)) == [f"body.{field}" for field in fields]
    changed = service.request("PATCH", "/v1/handlers/ok", json={"timeout": 0, "max_attempts": 0})
    assert places(changed) == ["body.timeout", "body.max_attempts"]
    trial = service.post("/v1/handlers/ok/test", {"event": {"type": 1, "time": "soon"}})
    assert places(trial) == ["body.event.type", "body.event.time"]
    key = service.post("/v1/keys", {"name": "", "scopes": ["all", "some"]})
    assert places(key) == ["body.name", "body.scopes.0", "body.scopes.1"]
    assert places(service.get("/v1/events?tpye=a&limt=1")) == ["query.limt", "query.tpye"]
    assert places(service.get("/v1/results?kinds=odd&types=a..b")) == ["query.types", "query.kinds"]


@pytest.mark.parametrize(
    ("method", "path", "body", "fields"),
    [
        (
            "GET",
            "/v1/runs?limit=0&state=odd&event=x&verbose=1&colour=1",
            None,
            ["query.colour", "query.event", "query.limit", "query.state", "query.verbose"],
        ),
        ("GET", "/v1/events/0?verbose=1", None, ["path.seq", "query.verbose"]),
        ("GET", "/v1/events?type=a..b&limit=0", None, ["query.limit", "query.type"]),
        ("GET", "/v1/events?type=&limit=0&verbose=1", None, ["query.limit", "query.type", "query.verbose"]),
        (
            "GET",
            "/v1/results?types=a..b&types=b&kinds=odd&handlers=A",
            None,
            ["query.handlers", "query.kinds", "query.types"],
        ),
        (
            "POST",
            "/v1/handlers",
            {"name": "new", "target": "all:none", "events": ["t"], "pool": "thread", "memory": 3},
            ["body.memory", "body.target"],
        ),
        (
            "PATCH",
            "/v1/handlers/ok",
            {"name": "other", "target": "all:none", "events": None, "pool": "thread", "memory": 3},
            ["body.events", "body.memory", "body.name", "body.target"],
        ),
        (
            "POST",
            "/v1/handlers/ok/test",
            {"event": {"type": "a b", "id": 3}, "dry": True, "more": 1},
            ["body.dry", "body.event.id", "body.event.type", "body.more"],
        ),
        (
            "POST",
            "/v1/keys",
            {"name": "", "scopes": [], "expires_at": "soon", "colour": 1},
            ["body.colour", "body.expires_at", "body.name", "body.scopes"],
        ),
        ("POST", "/v1/runs/retry", {"state": "odd", "colour": 1}, ["body.colour", "body.state"]),
    ],
)
def test_all_errors_of_a_request_are_reported_at_once(
    service: Service, method: str, path: str, body: Any, fields: list[str]
) -> None:
    answer = service.request(method, path, json=body)
    assert answer.status_code == 422, answer.text
    assert sorted(".".join(map(str, each["loc"])) for each in answer.json()["errors"]) == fields


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "text/plain"}, 415),
        ({}, 415),
    ],
)
def test_another_media_type_is_refused_by_name(
    service: Service, headers: dict[str, str], status: int
) -> None:
    answer = service.request("POST", "/v1/events", content=b'{"type":"t"}', headers=headers)
    assert answer.status_code == status, answer.text


def test_a_compressed_body_is_refused(service: Service) -> None:
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    answer = service.request("POST", "/v1/events", content=b'{"type":"t"}', headers=headers)
    assert answer.status_code == 415
    assert "Content-Encoding" in answer.json()["detail"]


def test_a_parameter_that_the_operation_does_not_have_is_refused(service: Service) -> None:
    for path in ("/v1/events?tpye=a", "/v1/runs?limit=5&stat=dead", "/v1/status?x=1"):
        answer = service.get(path)
        assert answer.status_code == 422, path
        assert answer.json()["errors"][0]["loc"][0] == "query"
    assert service.get("/healthz?x=1").status_code == 200


def test_a_method_that_is_not_for_a_path_says_which_are(service: Service) -> None:
    answer = service.request("PUT", "/v1/events")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "GET, HEAD, POST")
    assert service.request("DELETE", "/v1/runs/1").headers["Allow"] == "GET, HEAD"
    answer = service.get("/v1/runs/retry")
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")
    for path in ("/healthz", "/readyz", "/v1/events"):
        head = service.request("HEAD", path)
        assert (head.status_code, head.content) == (200, b"")


def test_a_websocket_that_is_opened_like_a_page_says_so(service: Service) -> None:
    answer = service.get("/v1/subscribe")
    assert (answer.status_code, answer.headers["Upgrade"]) == (426, "websocket")


def test_an_offer_of_http_2_is_ignored_and_loses_no_body(service: Service) -> None:
    headers = {
        "Content-Type": "application/json",
        "Connection": "Upgrade, HTTP2-Settings",
        "Upgrade": "h2c",
        "HTTP2-Settings": "AAMAAABkAAQAoAAAAAIAAAAA",
    }
    body = b'{"type":5,"data":"\\r\\nUpgrade: h2c"}'
    answer = service.request("POST", "/v1/events", content=body, headers=headers)
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["loc"] == ["body", "type"]


def test_a_chunked_body_without_a_length_is_bounded(service: Service) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b" " * 1000

    answer = service.request(
        "POST", "/v1/events", content=endless(), headers={"Content-Type": "application/json"}
    )
    assert answer.status_code == 413
    other = service.request(
        "POST", "/v1/handlers", content=endless(), headers={"Content-Type": "application/json"}
    )
    assert other.status_code == 413


GOOD = {"name": "x", "target": "all:ok", "events": ["t"]}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"target": "os:system"}, "target"),
        ({"target": "all:system"}, "target"),
        ({"target": "all:dumps"}, "target"),
        ({"target": "all:_hidden"}, "target"),
        ({"target": "../all:ok"}, "target"),
        ({"target": "all.ok"}, "target"),
        ({"target": "broken:ok"}, "target"),
        ({"target": "http://example.com"}, "target"),
        ({"target": None}, "target"),
        ({"name": "X"}, "name"),
        ({"name": "a" * 64}, "name"),
        ({"name": None}, "name"),
        ({"events": []}, "events"),
        ({"events": "t"}, "events"),
        ({"events": ["a.**.b"]}, "events"),
        ({"events": ["a..b"]}, "events"),
        ({"events": ["a*"]}, "events"),
        ({"events": [1]}, "events"),
        ({"pool": "fiber"}, "pool"),
        ({"timeout": 0}, "timeout"),
        ({"timeout": "1"}, "timeout"),
        ({"max_attempts": 0}, "max_attempts"),
        ({"max_attempts": 1.5}, "max_attempts"),
        ({"backoff": {"start": 1}}, "backoff"),
        ({"backoff": {"jitter": 2}}, "backoff"),
        ({"paused": 1}, "paused"),
        ({"filter": {}}, "filter"),
        ({"filter": {"all": []}}, "filter"),
        ({"filter": {"exact": {"subject": 1}}}, "filter"),
        ({"filter": {"any": [{"exact": {"id": str(n)}} for n in range(300)]}}, "filter"),
        ({"filter": {"exact": {"time": "x" * 5_000}}}, "filter"),
        ({"concurrency": 0}, "concurrency"),
        ({"concurrency": True}, "concurrency"),
        ({"rate": "1"}, "rate"),
        ({"rate": "0/s"}, "rate"),
        ({"rate": 5}, "rate"),
        ({"ordered": 1}, "ordered"),
        ({"memory": 0}, "memory"),
        ({"memory": 1.5}, "memory"),
        ({"memory": True}, "memory"),
        ({"memory": 1_048_577}, "memory"),
        ({"memory": 64, "pool": "thread"}, "memory"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_bad_handler_is_refused(service: Service, change: dict[str, Any], field: str) -> None:
    answer = service.post("/v1/handlers", {k: v for k, v in {**GOOD, **change}.items() if v is not None})
    assert answer.status_code == 422, answer.text
    assert answer.json()["errors"][0]["loc"] == ["body", field]
    assert answer.json()["detail"].startswith(f"{field}: ")


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/v1/nothing", None, 404),
        ("DELETE", "/v1/events", None, 405),
        ("GET", "/v1/events/999999", None, 404),
        ("GET", "/v1/events/x", None, 404),
        ("GET", f"/v1/events/{10**19}", None, 404),
        ("GET", f"/v1/events/{1 << 63}", None, 422),
        ("GET", "/v1/events?type=a..b", None, 422),
        ("GET", "/v1/events?limit=0", None, 422),
        ("GET", "/v1/events?limit=1001", None, 422),
        ("GET", "/v1/events?after=x", None, 400),
        ("GET", "/v1/runs/999999", None, 404),
        ("GET", "/v1/runs?state=odd", None, 422),
        ("POST", "/v1/runs/999999/retry", None, 404),
        ("POST", "/v1/runs/retry", {"state": "running"}, 422),
        ("POST", "/v1/runs/retry", {"state": "dead", "handler": "none"}, 404),
        ("GET", "/v1/results?after=x", None, 400),
        ("GET", "/v1/results?after=0123456789abcdef-1-00000000", None, 410),
        ("GET", "/v1/results?kinds=odd", None, 422),
        ("GET", "/v1/results?types=a..b", None, 422),
        ("GET", "/v1/handlers/none", None, 404),
        ("PATCH", "/v1/handlers/ok", {"name": "other"}, 422),
        ("PATCH", "/v1/handlers/ok", {"colour": None}, 422),
        ("PATCH", "/v1/handlers/ok", {"target": None}, 422),
        ("PATCH", "/v1/handlers/ok", [], 422),
        ("POST", "/v1/handlers/ok/resume", None, 409),
        ("POST", "/v1/handlers/none/test", {"event": {"type": "t"}}, 404),
        ("POST", "/v1/handlers/ok/test", {}, 422),
        ("POST", "/v1/handlers/ok/test", [], 422),
        ("POST", "/v1/handlers/ok/test", {"type": "t"}, 422),
        ("POST", "/v1/handlers/ok/test", {"event": {}}, 422),
        ("POST", "/v1/handlers/ok/test", {"event": [{"type": "t"}]}, 422),
        ("POST", "/v1/handlers/ok/test", {"event": {"type": "t"}, "times": 2}, 422),
        ("POST", "/v1/handlers/ok/test", {"event": {"type": "t", "priority": 10}}, 422),
        ("POST", "/v1/handlers/ok/test", {"event": {"type": "t", "data": "a" * 2000}}, 413),
        ("POST", "/v1/handlers", {"name": "ok", "target": "all:ok", "events": ["t"]}, 409),
        ("POST", "/v1/keys", {"name": "k", "scopes": ["all"]}, 422),
        (
            "POST",
            "/v1/keys",
            {"name": "k", "scopes": ["admin"], "expires_at": "9999-12-31T23:59:59-01:00"},
            422,
        ),
        ("POST", "/v1/keys", {"name": "k", "scopes": ["publish"]}, 422),
        ("POST", "/v1/keys", {"name": "k", "scopes": ["admin"], "types": ["a"]}, 422),
    ],
)
def test_a_bad_request_is_a_problem_document(
    service: Service, method: str, path: str, body: Any, status: int
) -> None:
    answer = service.request(method, path, json=body) if body is not None else service.request(method, path)
    assert answer.status_code == status, answer.text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert len(answer.json()["detail"]) > 10


FRAMES = [
    ("{", "bad_frame"),
    ("[]", "bad_frame"),
    ('{"op": "dance"}', "bad_frame"),
    ("[" * 5000, "bad_frame"),
    ('{"op": "subscribe"}', "bad_subscription"),
    ('{"op": "subscribe", "id": "x", "types": ["a..b"]}', "bad_pattern"),
    ('{"op": "subscribe", "id": "x", "after": "x"}', "bad_cursor"),
    ('{"op": "subscribe", "id": "x", "kinds": ["odd"]}', "bad_subscription"),
    ('{"op": "subscribe", "id": "x", "filter": {"exact": {}}}', "bad_filter"),
    ('{"op": "subscribe", "id": "x", "filter": {"near": {"a": "b"}}}', "bad_filter"),
    ('{"op": "subscribe", "id": "x", "durable": ""}', "bad_subscription"),
    ('{"op": "ack", "id": "x", "cursor": "x"}', "unknown_subscription"),
    ('{"op": "subscribe", "id": "x", "shadow": "yes"}', "bad_subscription"),
    ('{"op": "subscribe", "id": "x", "colour": "red"}', "bad_subscription"),
    ('{"op": "unsubscribe", "id": "x"}', "unknown_subscription"),
    ('{"op": "publish", "ref": "r", "event": {"type": ""}}', "bad_event"),
    ('{"op": "publish", "ref": "r", "event": [{"type": "t"}]}', "bad_event"),
]


def test_a_bad_frame_is_an_error_frame_and_the_socket_stays_open(service: Service) -> None:
    with service.connect() as socket_:
        for frame, code in FRAMES:
            socket_.send(frame)
            answer = hear(socket_)
            assert (answer["op"], answer["code"]) == ("error", code), (frame, answer)
            assert len(answer["detail"]) > 10
        socket_.send(b"\x00binary")
        assert hear(socket_)["code"] == "bad_frame"
        say(socket_, op="ping")
        assert hear(socket_) == {"op": "pong"}


def test_a_place_that_cannot_be_kept_is_said(service: Service) -> None:
    with service.connect() as socket_:
        say(socket_, op="subscribe", id="s", after="0123456789abcdef-1-00000000")
        answer = hear(socket_)
    assert (answer["op"], answer["recovered"]) == ("subscribed", False)


def test_a_file_that_does_not_import_is_reported_and_harms_nobody(service: Service) -> None:
    (target,) = [t for t in service.ok("GET", "/v1/targets")["items"] if "error" in t]
    (file,) = service.ok("GET", "/v1/status")["files_that_do_not_import"]
    assert target == file
    assert file["file"] == "broken.py"
    assert "nothing_of_that_name" in file["error"]
    service.logged("nothing_of_that_name")


def test_half_a_request_harms_nobody(service: Service) -> None:
    host, port = service.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as raw:
        raw.sendall(b"POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n{")
    assert service.get("/healthz").json() == {"status": "alive"}
    assert json.loads(service.get("/openapi.json").text)["info"]["title"] == "Busway"


@pytest.mark.parametrize(
    "path",
    [
        "/v1/schedules/%00", "/v1/schedules?after=%00", "/v1/subscriptions?after=%00", "/v1/events?id=%00",
        "/v1/events?source=a%00b", "/v1/events?subject=%00", "/v1/runs?handler=%00", "/v1/handlers/%00",
    ],
)  # fmt: skip
def test_no_name_has_a_nul_character(service: Service, path: str) -> None:
    """PostgreSQL has no text with one."""
    assert "NUL" in service.get(path).json()["detail"]
    places(service.get(path))
