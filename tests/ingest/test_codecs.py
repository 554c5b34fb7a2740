"""Codecs of CloudEvents: any event comes out as it went in, and anything else is refused, never a fault."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from busway.domain import cloudevents
from busway.domain.event import NewEvent, to_event
from busway.gateway.errors import BadRequest, Invalid, TooLarge, UnsupportedMediaType
from busway.gateway.ingest.codecs.choosing import choose
from busway.gateway.ingest.codecs.cloudevents import BATCH, BINARY, STRUCTURED
from busway.gateway.ingest.codecs.port import Codec, Headers
from busway.gateway.turns import finish
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.ingest.any_event import EXTENSIONS, NAMES, OPTIONAL, PAYLOADS, TYPES, as_binary

NOW = 1_769_860_800_000_000


def read(codec: Codec, headers: Headers, body: bytes) -> list[NewEvent]:
    events, _ = finish(codec.read(headers, body, NOW, 1 << 20, None))
    return events


def encoded(headers: list[tuple[str, str]]) -> list[tuple[bytes, bytes]]:
    return [(name.lower().encode(), value.encode("ascii")) for name, value in headers]


@given(NAMES, TYPES, EXTENSIONS, OPTIONAL, PAYLOADS)
@settings(derandomize=True, deadline=None, max_examples=100)
def test_an_event_that_leaves_in_any_mode_comes_back_the_same(
    source: str, type_: str, extensions: dict[str, Any], optional: dict[str, Any], payload: dict[str, Any]
) -> None:
    sent = {"specversion": "1.0", "id": "i", "source": source, "type": type_}
    sent |= {**extensions, **optional, **payload}
    (new,) = read(STRUCTURED, (), json.dumps(sent).encode())
    event = to_event(new, 1)
    for indent in (None, 1):
        text = cloudevents.document(event)
        text["data"] = None if "data" not in text else json.loads(bytes(text["data"]))
        text = {name: value for name, value in text.items() if name != "data" or "data" in sent}
        (again,) = read(BATCH, (), json.dumps([text], indent=indent).encode())
        assert comparable(again) == comparable(new)
    headers, body = as_binary(sent)
    (again,) = read(choose(encoded(headers)), encoded(headers), body)
    assert comparable(again, typed=False) == comparable(new, typed=False)


def comparable(new: NewEvent, *, typed: bool = True) -> dict[str, Any]:
    """An event without what a mode cannot carry: types in headers, and no media type for JSON."""
    attributes = {k: v if typed else cloudevents.text(v) for k, v in new.attributes.items()}
    attributes.pop("correlationid", None)
    payload = new.data if new.binary or new.data is None else json.dumps(json.loads(new.data))
    media_type = new.datacontenttype
    if not typed and payload is not None and not new.binary:
        media_type = media_type or "application/json"
    return {
        "of": (new.id, new.source, new.type, new.subject, new.time, new.priority, new.correlationid),
        "attributes": attributes,
        "payload": payload,
        "media_type": media_type,
    }


SCALARS = ['"a\\": \\"b"', "1", "true", '""', '"\\\\"']
MEMBERS = st.lists(
    st.tuples(st.sampled_from(["id", "a", "b", "x" * 20]), st.sampled_from(SCALARS))
    | st.tuples(
        st.just("data"), st.sampled_from([*SCALARS, '{"id": {"id": ",\\"a\\":"}}', "[]", '[{"data":1}]'])
    ),
    max_size=5,
)
SPACE = st.sampled_from(["", " ", "\n\t ", "\r\n"])


@given(MEMBERS, st.lists(SPACE, min_size=30, max_size=30), st.booleans())
@settings(derandomize=True, deadline=None, max_examples=300)
def test_a_member_that_appears_twice_is_found_whatever_the_spacing(
    members: list[tuple[str, str]], spaces: list[str], escaped: bool
) -> None:
    members = [("specversion", '"1.0"'), ("source", '"/"'), ("type", '"t"'), *members]
    space = iter(spaces)
    parts = [
        f'{next(space)}"{_escaped(name) if escaped else name}"{next(space)}:{next(space)}{value}'
        for name, value in members
    ]
    body = "{" + f"{next(space)},".join(parts) + next(space) + "}"
    names = [name for name, _ in members]
    repeated = {name for name in names if names.count(name) > 1}
    try:
        read(STRUCTURED, (), body.encode())
        said = ""
    except Invalid as problem:
        said = " ".join(field.msg for field in problem.errors or [])
    assert ("appears twice" in said) is bool(repeated), (body, said)
    if repeated:
        assert any(f"{name} appears twice" in said for name in repeated)


def _escaped(name: str) -> str:
    return f"\\u{ord(name[0]):04x}{name[1:]}"


HEADER = st.tuples(
    st.sampled_from([b"ce-id", b"ce-source", b"ce-type", b"ce-specversion", b"content-type", b"ce-priority"])
    | st.binary(max_size=6).map(lambda name: b"ce-" + name),
    st.sampled_from([b"1.0", b"application/json", b"text/plain", b"%41", b'"a"', b"9"])
    | st.binary(max_size=12),
)


@given(st.lists(HEADER, max_size=8), st.binary(max_size=40) | st.sampled_from([b"{}", b"[]", b"null"]))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_no_request_is_a_fault(headers: Headers, body: bytes) -> None:
    for codec in (BINARY, STRUCTURED, BATCH):
        with contextlib.suppress(BadRequest, Invalid, TooLarge):
            for event in read(codec, headers, body):
                assert cloudevents.document(to_event(event, 1))
    with contextlib.suppress(BadRequest, UnsupportedMediaType):
        choose(headers)


@pytest.mark.parametrize(
    "value", ["", "a", "a b", '"', "%", "%25", "é", "😀", "\x7f", "a,b;c=d", "\\", "~!*'()", "\u2028"]
)
def test_a_header_is_printable_ascii_and_comes_back(value: str) -> None:
    header = cloudevents.encode_header(value)
    assert header.isascii()
    assert (header.isprintable() and " " not in header) or not value
    assert cloudevents.decode_header(header.encode()) == value


@pytest.mark.parametrize("value", ['"v"', "null"])
def test_members_are_counted_before_they_are_looked_at(value: str) -> None:
    """Each would take time, and 1 MiB has 50,000 of them."""
    many = ",".join(f'"k{n}":{value}' for n in range(50_000))
    text = f'{{"specversion":"1.0","id":"i","source":"/","type":"t",{many}}}'.encode()
    for codec, body in ((STRUCTURED, text), (BATCH, b"[%b]" % text)):
        with pytest.raises(Invalid) as refused:
            read(codec, [], body)
        assert [bad.msg for bad in refused.value.errors] == [
            "an event has at most 1000 members: move some into data"
        ]


def test_an_integer_that_only_plain_json_may_have_leaves_as_a_string() -> None:
    event = NewEvent(
        id="i",
        source="/",
        type="t",
        time=NOW,
        accepted_at=NOW,
        correlationid="i",
        attributes={"n": 1 << 40, "m": 5},
    )
    assert cloudevents.document(to_event(event, 1))["n"] == str(1 << 40)
    assert cloudevents.document(to_event(event, 1))["m"] == 5
