"""CloudEvents over HTTP: each content mode in, and the same event out again."""

from __future__ import annotations

import base64
import itertools
import json
from typing import Any

import httpx
import pytest
from busway.domain.cloudevents import encode_header, text
from hypothesis import HealthCheck, given, settings

from tests.documents.answers import as_described
from tests.ingest.any_event import EXTENSIONS, NAMES, OPTIONAL, PAYLOADS, TYPES, as_binary

from .conftest import Shared
from .service import Service

STRUCTURED, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"
HANDLERS = """
from busway import handler

@handler("ce.seen")
def see(event):
    return {"data": repr(event.data), "attributes": event.attributes, "type": event.datacontenttype}
"""
ids = (f"id-{number}" for number in itertools.count())


@pytest.fixture
def service(shared_service: Shared) -> Service:
    return shared_service(HANDLERS, max_event_bytes=100_000)


def send(service: Service, headers: list[tuple[str, Any]], body: bytes) -> httpx.Response:
    """Publish with these headers, which may repeat."""
    return as_described(service.client.post(service.url + "/v1/events", headers=headers, content=body))


def structured(service: Service, event: Any, media_type: str = STRUCTURED) -> httpx.Response:
    return send(service, [("Content-Type", media_type)], json.dumps(event).encode())


def read(service: Service, seq: int) -> dict[str, Any]:
    """An event in structured mode."""
    answer = service.get(f"/v1/events/{seq}", headers={"Accept": STRUCTURED})
    assert answer.headers["Content-Type"] == STRUCTURED
    found: dict[str, Any] = answer.json()
    return found


def accepted(answer: httpx.Response) -> int:
    assert answer.status_code == 202, answer.text
    seq: int = answer.json()["seq"]
    return seq


def head(**attributes: Any) -> list[tuple[str, Any]]:
    whole = {"specversion": "1.0", "id": next(ids), "source": "/s", "type": "ce.some", **attributes}
    return [(f"ce-{name}", value) for name, value in whole.items() if value is not None]


def event(**members: Any) -> dict[str, Any]:
    whole = {"specversion": "1.0", "id": next(ids), "source": "/s", "type": "ce.some", **members}
    return {name: value for name, value in whole.items() if value is not ...}


# The scenarios of https://github.com/cloudevents/conformance, features/http-protocol-binding.feature.

BINARY_REQUEST = """POST /someresource HTTP/1.1
Host: example.com
ce-specversion: 1.0
ce-type: com.example.someevent
ce-time: 2018-04-05T03:56:24Z
ce-id: 1234-1234-1234
ce-source: /mycontext/subcontext
Content-Type: <contentType>
Content-Length: 33

{
    "message": "Hello World!"
}
"""
STRUCTURED_REQUEST = """POST /someresource HTTP/1.1
Host: example.com
Content-Type: <contentType>
Content-Length: 266

{
    "specversion": "1.0",
    "type": "com.example.someevent",
    "time": "2018-04-05T03:56:24Z",
    "id": "1234-1234-1234",
    "source": "/mycontext/subcontext",
    "datacontenttype": "application/json",
    "data": {
        "message": "Hello World!"
    }
}
"""


@pytest.mark.parametrize(
    ("request_", "media_type", "datacontenttype"),
    [
        (BINARY_REQUEST, "application/json", "application/json"),
        (BINARY_REQUEST, "application/json; charset=utf-8", "application/json; charset=utf-8"),
        (STRUCTURED_REQUEST, "application/cloudevents+json", "application/json"),
        (STRUCTURED_REQUEST, "application/cloudevents+json; charset=utf-8", "application/json"),
    ],
)
def test_the_scenarios_of_the_conformance_project(
    service: Service, request_: str, media_type: str, datacontenttype: str
) -> None:
    own = next(ids)  # the scenarios share one id, which would make them duplicates
    whole = request_.replace("<contentType>", media_type).replace("1234-1234-1234", own)
    lines, _, body = whole.partition("\n\n")
    headers = [tuple(line.split(": ", 1)) for line in lines.splitlines()[2:]]
    headers = [each for each in headers if each[0] != "Content-Length"]
    found = read(service, accepted(send(service, headers, body.encode())))
    assert found.pop("correlationid") == own
    assert found == {
        "id": own,
        "specversion": "1.0",
        "type": "com.example.someevent",
        "source": "/mycontext/subcontext",
        "time": "2018-04-05T03:56:24.000000Z",
        "datacontenttype": datacontenttype,
        "data": {"message": "Hello World!"},
    }


def test_an_event_reaches_its_handler_and_every_answer_as_it_was_published(service: Service) -> None:
    payload = bytes(range(256))
    extensions = {"dataschema": "https://x.example/s", "colour": "røed 😀", "traceparent": "00-1"}
    sent = event(
        type="ce.seen", id="same", subject="s 1", datacontenttype="image/png", n=-5, flag=True, **extensions,
        data_base64=base64.b64encode(payload).decode(), unset=None, partitionkey="k",
    )  # fmt: skip
    del sent["unset"]
    (one,) = structured(service, [{**sent, "unset": None}], BATCH).json()["items"]
    attributes = {name: encode_header(text(value)) for name, value in sent.items()}
    del attributes["data_base64"], attributes["datacontenttype"]
    headers = [*head(**{**attributes, "id": "same-2"}), ("Content-Type", "image/png")]
    other = send(service, headers, payload).json()
    assert one["runs"] == other["runs"] == 1
    for receipt, own, typed in ((one, "same", {}), (other, "same-2", {"n": "-5", "flag": "true"})):
        wanted = {**sent, "id": own, "correlationid": own, **typed}
        found = read(service, receipt["seq"])
        assert found.pop("time")
        assert found == wanted
        whole = service.ok("GET", f"/v1/events/{receipt['seq']}")
        tree = service.ok("GET", f"/v1/events/{receipt['seq']}/tree")["event"]
        listed = service.ok("GET", f"/v1/events?id={own}")["items"]
        for answer in (whole, tree, *listed):
            assert {k: v for k, v in answer.items() if k not in {"seq", "time", "runs"}} == wanted
        service.finished(receipt["seq"])
        (result,) = [item for item in service.results() if item["event"]["seq"] == receipt["seq"]]
        assert result["data"] == {
            "data": repr(payload),
            "type": "image/png",
            "attributes": {
                **extensions, "n": -5, "flag": True, "partitionkey": "k", "correlationid": own, **typed
            },
        }  # fmt: skip


@pytest.mark.parametrize(
    ("media_type", "body", "data"),
    [
        (None, b"", {}),
        (None, b"\x00", {"data_base64": "AA=="}),
        ("application/json", b"", {}),
        ("text/plain", b"", {"data_base64": ""}),
        ("application/json", b' {"a":  1.50}\n', {"data": {"a": 1.5}}),
        ("Application/Vnd.X+JSON;v=1", b"null", {"data": None}),
        ("application/xml", b"<a/>", {"data_base64": "PGEvPg=="}),
        ("application/x-ndjson", b"{}\n{}", {"data_base64": "e30Ke30="}),
        ("application/jsonx", b"{", {"data_base64": "ew=="}),
        ('multipart/mixed; boundary="a \\" b%41"', b"x", {"data_base64": "eA=="}),
    ],
)
def test_the_media_type_says_what_the_body_in_binary_mode_is(
    service: Service, media_type: str | None, body: bytes, data: dict[str, Any]
) -> None:
    headers = [*head(), *([("Content-Type", media_type)] if media_type else [])]
    found = read(service, accepted(send(service, headers, body)))
    assert {name: found[name] for name in found if name.startswith("data_") or name == "data"} == data
    assert found.get("datacontenttype") == media_type


@pytest.mark.parametrize(
    ("value", "subject"),
    [
        ("Euro%20%e2%82%aC%20%F0%9F%98%80", "Euro € 😀"),
        ('"a \\"b\\" \\\\c"', 'a "b" \\c'),
        ('"50%25"', "50%"),
        ("%2525", "%25"),
        ("a b%41", "a bA"),
        ("a, b", "a, b"),
    ],
)
def test_headers_are_unquoted_then_decoded_once(service: Service, value: str, subject: str) -> None:
    assert read(service, accepted(send(service, head(subject=value), b"")))["subject"] == subject


@pytest.mark.parametrize(
    "media_type",
    [
        "application/CLOUDEVENTS+json",
        "application/cloudevents+json;charset=UTF-8",
        'application/cloudevents+json ; charset="utf-8"; x=1',
    ],
)
def test_structured_mode_is_told_by_its_media_type_alone(service: Service, media_type: str) -> None:
    sent = event()
    headers = [*head(id="other", specversion="0.3", bad_name="x"), ("Content-Type", media_type)]
    found = read(service, accepted(send(service, headers, json.dumps(sent).encode())))
    assert found["id"] == sent["id"]


def test_headers_of_events_say_nothing_without_a_version(service: Service) -> None:
    headers = [*head(specversion=None, id="x", type="y"), ("Content-Type", "application/json")]
    own = accepted(send(service, headers, b'{"type":"ce.some"}'))
    assert read(service, own)["id"] != "x"


def test_an_empty_batch_is_accepted_and_has_no_receipts(service: Service) -> None:
    answer = structured(service, [], BATCH)
    assert (answer.status_code, answer.json()) == (202, {"items": []})


def test_a_type_that_is_refused_says_which_are_taken(service: Service) -> None:
    for media_type, more in (
        ("text/plain", []),
        ("application/cloudevents+avro", head()),
        ("application/cloudevents", head()),
        ("application/cloudevents-batch+xml", []),
        (STRUCTURED + "; charset=latin-1", []),
        ("nothing", head()),
    ):
        answer = send(service, [*more, ("Content-Type", media_type)], b"{}")
        assert answer.status_code == 415, media_type
        assert (
            answer.headers["Accept-Post"] == f"application/json, {STRUCTURED}, {BATCH}, application/x-ndjson"
        )


def test_the_answer_is_structured_only_if_the_client_prefers_it(service: Service) -> None:
    seq = accepted(structured(service, event(data=None)))
    for accept, structured_ in (
        (STRUCTURED, True),
        (f"{STRUCTURED.upper()};charset=utf-8, application/json;q=0.9", True),
        (f"application/json, {STRUCTURED}", False),
        (f"{STRUCTURED};q=0, */*", False),
        ("*/*", False),
    ):
        answer = service.get(f"/v1/events/{seq}", headers={"Accept": accept})
        assert ("runs" not in answer.json()) is structured_, accept
        assert answer.json()["data"] is None
        assert answer.headers["Vary"] == "Accept"


# What the binding does not allow


BAD_HEADERS = {
    "a version that is not ours": ({"specversion": "0.3"}, "ce-specversion"),
    "no version that can be read": ({"specversion": "%ZZ"}, "ce-specversion"),
    "no id": ({"id": None}, "ce-id"),
    "an empty id": ({"id": ""}, "ce-id"),
    "no source": ({"source": None}, "ce-source"),
    "no type": ({"type": None}, "ce-type"),
    "an empty type": ({"type": ""}, "ce-type"),
    "a type with a star": ({"type": "a.*"}, "ce-type"),
    "no percent-encoding": ({"subject": "%ZZ"}, "ce-subject"),
    "half a percent-encoding": ({"subject": "a%4"}, "ce-subject"),
    "an overlong form": ({"subject": "%C0%A0"}, "ce-subject"),
    "a surrogate": ({"subject": "%ED%A0%80"}, "ce-subject"),
    "a character that is cut off": ({"subject": "%E2%82"}, "ce-subject"),
    "bytes that are not ASCII": ({"subject": "é".encode()}, "ce-subject"),
    "half a quoted string": ({"subject": '"a'}, "ce-subject"),
    "another header": ({"subject": "a%0D%0AX-Evil:%201"}, "ce-subject"),
    "a zero": ({"colour": "%00"}, "ce-colour"),
    "the type of the data": ({"datacontenttype": "text/plain"}, "ce-datacontenttype"),
    "the data": ({"data": "x"}, "ce-data"),
    "the data in base64": ({"data_base64": "eA=="}, "ce-data_base64"),
    "a name with an underscore": ({"bad_name": "x"}, "ce-bad_name"),
    "a name with a hyphen": ({"bad-name": "x"}, "ce-bad-name"),
    "no name": ({"": "x"}, "ce-"),
    "a long name": ({"x" * 21: "x"}, "ce-" + "x" * 21),
    "our own number": ({"seq": "1"}, "ce-seq"),
    "no time": ({"time": "yesterday"}, "ce-time"),
    "no time to run at": ({"deliverat": "soon"}, "ce-deliverat"),
    "no priority": ({"priority": "10"}, "ce-priority"),
    "a long priority": ({"priority": "9" * 5000}, "ce-priority"),
    "an empty schema": ({"dataschema": ""}, "ce-dataschema"),
    "a long id": ({"id": "x" * 256}, "ce-id"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_what_is_wrong_with_a_header_is_a_400_that_names_it(service: Service, case: str) -> None:
    attributes, header = BAD_HEADERS[case]
    answer = send(service, [*head(**attributes), ("Content-Type", "text/plain")], b"x")
    assert answer.status_code == 400, answer.text
    problem = answer.json()
    assert header in problem["detail"]
    if "errors" in problem:
        assert [each["loc"] for each in problem["errors"]] == [["header", header]]


@pytest.mark.parametrize("name", ["ce-id", "ce-specversion", "ce-colour", "Content-Type"])
def test_a_header_that_appears_twice_is_refused(service: Service, name: str) -> None:
    headers = [*head(colour="red"), ("Content-Type", "text/plain")]
    value = dict(headers)[name]
    for both in ((name, value), (name.upper(), value)):
        answer = send(service, [*headers, both], b"x")
        assert (answer.status_code, f"{name} appears twice" in answer.text) == (400, True)


def test_a_payload_that_is_not_the_json_that_it_says_is_refused(service: Service) -> None:
    for body in (b"{", b"NaN", b'"\xff"', b"[" * 101 + b"]" * 101, b"1" * 400):
        answer = send(service, [*head(), ("Content-Type", "application/problem+json")], body)
        assert answer.status_code == 400, body
    answer = send(service, [*head(), ("Content-Type", "text/plain")], b"x" * 100_001)
    assert answer.status_code == 413


BAD_MEMBERS: dict[str, tuple[dict[str, Any], str]] = {
    "a version that is not ours": ({"specversion": "0.3"}, "specversion"),
    "no version": ({"specversion": ...}, "specversion"),
    "no id": ({"id": ...}, "id"),
    "an id that is not set": ({"id": None}, "id"),
    "no source": ({"source": ...}, "source"),
    "no type": ({"type": ...}, "type"),
    "an integer of 33 bits": ({"n": 1 << 31}, "n"),
    "a negative one": ({"n": -(1 << 31) - 1}, "n"),
    "a fraction": ({"n": 1.5}, "n"),
    "an object": ({"n": {}}, "n"),
    "a long name": ({"x" * 21: 1}, "x" * 21),
    "a capital": ({"Colour": 1}, "Colour"),
    "both payloads": ({"data": 1, "data_base64": "eA=="}, "data_base64"),
    "no base64": ({"data_base64": "e"}, "data_base64"),
    "no string": ({"data_base64": 1}, "data_base64"),
    "no media type": ({"datacontenttype": "text"}, "datacontenttype"),
    "no schema": ({"dataschema": ""}, "dataschema"),
    "a number for a schema": ({"dataschema": 5}, "dataschema"),
    "a line break": ({"colour": "a\r\nb"}, "colour"),
    "no time": ({"time": "2026-02-30T00:00:00Z"}, "time"),
    "an id of a megabyte": ({"id": "x" * 90_000}, "id"),
}


@pytest.mark.parametrize("case", BAD_MEMBERS)
def test_what_is_wrong_with_a_member_is_a_422_that_names_event_and_member(
    service: Service, case: str
) -> None:
    members, name = BAD_MEMBERS[case]
    good, bad = event(), event(**members)
    answer = structured(service, bad)
    assert answer.status_code == 422, answer.text
    assert [each["loc"] for each in answer.json()["errors"]] == [["body", name]]
    answer = structured(service, [good, bad], BATCH)
    assert answer.status_code == 422, answer.text
    assert [each["loc"] for each in answer.json()["errors"]] == [["body", 1, name]]
    assert service.ok("GET", f"/v1/events?id={good['id']}")["items"] == []


@pytest.mark.parametrize("name", ["id", "data", "colour"])
def test_a_member_that_appears_twice_is_refused(service: Service, name: str) -> None:
    good, bad = event(data={"id": 1}), json.dumps(event(data={"id": 1}, colour="red"))
    for more in (f',"{name}":"x"}}', f' , "\\u{ord(name[0]):04x}{name[1:]}" : {{"id": 1}} }}'):
        body = f"[{json.dumps(good)}, {bad[:-1]}{more}]".encode()
        answer = send(service, [("Content-Type", BATCH)], body)
        assert answer.status_code == 422, answer.text
        assert ["body", 1, name] in [each["loc"] for each in answer.json()["errors"]]
    assert service.ok("GET", f"/v1/events?id={good['id']}")["items"] == []


def test_a_body_of_another_form_than_its_mode_is_refused(service: Service) -> None:
    for body, media_type in (
        ([event()], STRUCTURED),
        (event(), BATCH),
        (5, STRUCTURED),
        ([event(), 5], BATCH),
        ([event()] * 10_001, BATCH),
    ):
        answer = structured(service, body, media_type)
        assert answer.status_code in {400, 422}, answer.text
        assert answer.json()["detail"]
    for text_ in (b"{", b"", b'{"specversion":"1.0","id":"\xff"}'):
        assert send(service, [("Content-Type", STRUCTURED)], text_).status_code == 400


# Any event, in every mode


@given(NAMES, TYPES, EXTENSIONS, OPTIONAL, PAYLOADS)
@settings(
    derandomize=True,
    deadline=None,
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@pytest.mark.long
def test_any_event_is_the_same_in_every_mode(
    service: Service,
    source: str,
    type_: str,
    extensions: dict[str, Any],
    optional: dict[str, Any],
    payload: dict[str, Any],
) -> None:
    sent = {**event(type=type_, source=source), **extensions, **optional, **payload}
    seqs = [accepted(structured(service, sent))]
    seqs += [each["seq"] for each in structured(service, [{**sent, "id": next(ids)}], BATCH).json()["items"]]
    seqs.append(accepted(send(service, *as_binary({**sent, "id": next(ids)}))))
    for seq, binary in zip(seqs, (False, False, True), strict=True):
        found = read(service, seq)
        wanted = {**sent, "id": found["id"], "time": sent.get("time", found["time"])}
        wanted["correlationid"] = sent.get("correlationid", found["id"])
        if binary:  # headers have no types, and JSON names its own
            wanted |= {name: text(value) for name, value in extensions.items()}
            if "data" in wanted:
                wanted.setdefault("datacontenttype", "application/json")
        assert found == wanted
    (again,) = structured(service, [found], BATCH).json()["items"]
    assert again["duplicate"]
