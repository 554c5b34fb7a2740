"""The content modes of the HTTP binding of CloudEvents 1.0.2: structured, batched and binary."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import msgspec

from busway.contract.events import StructuredEventIn
from busway.contract.problems import BadField
from busway.contract.schemas import ref
from busway.domain import cloudevents
from busway.domain.cloudevents import accept, declares_json, decode_header, faults
from busway.domain.event_fields import MAX_ATTRIBUTES
from busway.domain.handler import FieldError
from busway.domain.text import JSONError, decode_json
from busway.gateway.errors import BadRequest
from busway.gateway.ingest.codecs.port import Codec, Headers
from busway.gateway.ingest.reading import (
    MAX_EVENTS,
    SLICE_BYTES,
    Checks,
    Part,
    Read,
    Take,
    check_size,
    decoded,
    read_array,
    read_one,
)
from busway.gateway.turns import Steps

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_STRING = re.compile(rb'("[^"\\]*(?:\\.[^"\\]*)*")(\s*:)?')


def _payload(fields: dict[str, Any], raw: bytes | Part) -> bytes | None:
    """Return the JSON text of `data`.

    Raises:
        FieldError: a member appears twice. Decoders take either one, so each would see another event.
    """
    if len(fields) > MAX_ATTRIBUTES:
        return None  # `accept` refuses these before they are looked at
    members = _members(raw)
    size = sum(map(len, members)) + sum(map(len, members.values()))
    if len(raw) != size + 4 * len(members) + 1:  # it has white space, escapes, or more members
        text = bytes(raw)
        if _count_names(text) - _count_names(b",".join(members.values())) != len(members):
            name = _repeated(text, members) if len(text) <= SLICE_BYTES else ""
            raise FieldError(name, f"{name or 'a member'} appears twice: send it once")
    data = members.get("data")
    return None if data is None else bytes(data)


def _count_names(text: bytes) -> int:
    """Return how many names of members a JSON text has, with what looks like one inside of strings."""
    return text.translate(None, b" \t\r\n").count(b'":')


def _repeated(text: bytes, members: Mapping[str, msgspec.Raw]) -> str:
    """Return the name of a member that appears twice."""
    for value in map(bytes, members.values()):
        if value.startswith((b"{", b"[")):  # has names of its own
            text = text.replace(value, b"", 1)
    names = [msgspec.json.decode(found[1]) for found in _STRING.finditer(text) if found[2]]
    return "data" if names.count("data") > 1 else str(Counter(names).most_common(1)[0][0])


_CHECKS = Checks(accept, faults, _payload)
_FORM = f"the body must be one CloudEvent, a JSON object: send several as {cloudevents.BATCH}"
_CONTENT_TYPE = b"content-type"
_USUAL = {f"ce-{name}".encode(): name for name in cloudevents.REQUIRED} | {_CONTENT_TYPE: "datacontenttype"}
_BODY = "the body of the request is the data"
_NO_HEADER = {"data": _BODY, "data_base64": _BODY, "datacontenttype": "Content-Type has it"}
_PRIORITIES = frozenset("0123456789")


def _read_structured(
    _: Headers, body: bytes, now: int, max_event_bytes: int, take: Take | None
) -> Steps[Read]:
    return read_one(body, now, max_event_bytes, take, _CHECKS, _FORM)


def _read_batch(_: Headers, body: bytes, now: int, max_event_bytes: int, take: Take | None) -> Steps[Read]:
    return read_array(body, now, max_event_bytes, take, _CHECKS, 0)


def _read_binary(
    headers: Headers, body: bytes, now: int, max_event_bytes: int, take: Take | None
) -> Steps[Read]:
    """Read the event of a request whose headers are the attributes and whose body is the payload."""
    fields = read_attributes(headers)
    check_size(body, max_event_bytes)
    media_type = fields.get("datacontenttype")
    is_json = media_type is not None and declares_json(media_type)
    if is_json and body:
        if len(body) <= SLICE_BYTES:
            try:
                decode_json(body)
            except JSONError as problem:
                raise BadRequest(str(problem)) from None
        else:
            yield from decoded(body)
    try:
        event = accept(fields, body or None, now)
    except FieldError:
        bad = [BadField(["header", _header(each.field)], str(each)) for each in faults(fields, now)]
        raise BadRequest.of(bad) from None
    if not is_json and (body or media_type is not None):
        event.data, event.binary = body, True
    if take is not None:
        yield from take([event])
    return [event], False


def read_attributes(headers: Headers) -> dict[str, Any]:
    """Return the attributes that headers carry.

    Raises:
        BadRequest: a header is not percent-encoded UTF-8, appears twice, or is no attribute.
    """
    fields: dict[str, Any] = {}
    bad: list[BadField] = []
    for header, value in headers:
        name = _USUAL.get(header)
        if name is None:
            if not header.startswith(b"ce-"):
                continue
            name = header[3:].decode("latin-1")
        try:
            if name in fields or (name in _NO_HEADER and header != _CONTENT_TYPE):
                raise _misplaced(name)
            fields[name] = _media_type(value) if header == _CONTENT_TYPE else decode_header(value)
        except ValueError as problem:
            shown = header.decode("latin-1")
            bad.append(BadField(["header", shown], f"{shown} {problem}"))
    if bad:
        raise BadRequest.of(bad)
    if fields.get("priority") in _PRIORITIES:
        fields["priority"] = int(fields["priority"])
    return fields


def _media_type(value: bytes) -> str:
    """Return a media type as it was received: its quoted strings and its percent signs are its own."""
    if not value.isascii():
        raise ValueError("has bytes that are not ASCII")
    return value.replace(b"\t", b" ").decode()


def _misplaced(name: str) -> ValueError:
    return ValueError(
        f"is not allowed: {_NO_HEADER[name]}" if name in _NO_HEADER else "appears twice: send it once"
    )


def _header(name: str) -> str:
    return "content-type" if name == "datacontenttype" else f"ce-{name}"


_EXAMPLE = {
    "specversion": "1.0", "id": "order-1", "source": "/shop", "type": "order.created",
    "data": {"item": "book", "quantity": 2},
}  # fmt: skip
_MANY = {"type": "array", "items": ref(StructuredEventIn), "minItems": 0, "maxItems": MAX_EVENTS}
STRUCTURED = Codec(cloudevents.STRUCTURED, _read_structured, ref(StructuredEventIn), _EXAMPLE)
BATCH = Codec(cloudevents.BATCH, _read_batch, _MANY, [_EXAMPLE])
BINARY = Codec(None, _read_binary)
