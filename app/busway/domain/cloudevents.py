"""The rules of CloudEvents 1.0.2 beyond those of every event, and events as CloudEvents.

https://github.com/cloudevents/spec/tree/v1.0.2/cloudevents: spec.md, formats/json-format.md and
bindings/http-protocol-binding.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from busway.domain import event_fields
from busway.domain.event import Attribute, Event, NewEvent
from busway.domain.event import document as event_document
from busway.domain.handler import FieldError

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
REQUIRED = ("specversion", "id", "source", "type")

_REQUIRED = frozenset(REQUIRED)
_INTEGERS = range(-(1 << 31), 1 << 31)
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - a token of HTTP (RFC 9110, section 5.6.2)
_MEDIA_TYPE = re.compile(rf"({_TOKEN})/({_TOKEN})[ \t]*(?:;.*)?", re.ASCII | re.DOTALL)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)
_PERCENT = re.compile(rb"%([0-9A-Fa-f]{2})|%")
_ENCODED = re.compile(r"[^!#$&-~]")


def accept(fields: dict[str, Any], data: bytes | None, now: int) -> NewEvent:
    """Validate the members of one CloudEvent in JSON and return the event.

    Args:
        fields: the decoded members. A null means that the attribute is not set.
        data: the received JSON text of the member `data`, None if it is absent.
        now: microseconds since 1970.

    Raises:
        FieldError: a member is missing, unknown or invalid.
    """
    if len(fields) > event_fields.MAX_ATTRIBUTES:
        raise event_fields.too_many()
    if None in fields.values():
        fields = _set(fields)
    if not fields.keys() >= _REQUIRED:
        raise next(_missing(fields))
    event = event_fields.accept(fields, data, now)
    if event.datacontenttype is not None:
        check_media_type(event.datacontenttype)
    if event.attributes and (found := [*_attribute_faults(event.attributes)]):
        raise found.pop(0)  # a variable for it would be a reference cycle
    return event


def faults(fields: dict[str, Any], now: int) -> list[FieldError]:
    """Return an error for each member that `accept` refuses."""
    if len(fields) > event_fields.MAX_ATTRIBUTES:
        return [event_fields.too_many()]
    fields = _set(fields)
    found = [fault for fault in _missing(fields) if fault.field != "type"]
    found += event_fields.faults(fields, now)
    media_type = fields.get("datacontenttype")
    known = {fault.field for fault in found}
    if isinstance(media_type, str) and "datacontenttype" not in known:
        try:
            check_media_type(media_type)
        except FieldError as fault:
            found.append(fault.detached())
    return [*found, *(fault for fault in _attribute_faults(fields) if fault.field not in known)]


def _set(fields: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None or name == "data"}


def _missing(fields: dict[str, Any]) -> Iterator[FieldError]:
    for name in REQUIRED:
        if name not in fields:
            yield FieldError(name, f"{name} is missing: a CloudEvent has {', '.join(REQUIRED)}")


def _attribute_faults(attributes: dict[str, Any]) -> Iterator[FieldError]:
    for name, value in attributes.items():
        if name == "data":
            continue
        if type(value) is int and value not in _INTEGERS:
            yield FieldError(name, f"{name} does not fit in 32 bits: send it as a string")
        elif name == "dataschema" and (not isinstance(value, str) or not value):
            yield FieldError(name, "dataschema must be a URI, a string that is not empty")


@lru_cache(maxsize=2_000)  # of at most 255 characters each
def check_media_type(value: str) -> str:
    """Return a media type that is one (RFC 2046), with or without parameters.

    Raises:
        FieldError: it is not TYPE/SUBTYPE.
    """
    if not _MEDIA_TYPE.fullmatch(value):
        raise FieldError("datacontenttype", f"datacontenttype must be a media type, not {value!r}")
    return value


@lru_cache(maxsize=2_000)
def declares_json(media_type: str) -> bool:
    """Return whether data of this media type is JSON: `*/json` or `*/*+json`."""
    form = _MEDIA_TYPE.fullmatch(media_type)
    subtype = form[2].lower() if form else ""
    return subtype == "json" or subtype.endswith("+json")


def document(event: Event) -> dict[str, Any]:
    """Return the event as the members of a CloudEvent in JSON, without what only this gateway knows."""
    body = event_document(event)
    del body["seq"]
    if event.data is None:
        del body["data"]
    for name, value in event.attributes.items():
        if type(value) is int and value not in _INTEGERS:
            body[name] = str(value)  # as plain JSON may have it
    return body


def text(value: Attribute) -> str:
    """Return the canonical form of an attribute, as headers have it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def encode_header(value: str) -> str:
    """Return an attribute as the value of a header: percent-encoded, printable ASCII without spaces."""
    return _ENCODED.sub(lambda one: "".join(f"%{byte:02X}" for byte in one[0].encode()), value)


def decode_header(value: bytes) -> str:
    """Return an attribute from the value of its header.

    Quoted strings are read first, then percent-encoding, once.

    Raises:
        ValueError: the value is not printable ASCII, or not percent-encoded UTF-8. The message says why.
    """
    try:
        plain = value.decode("ascii")
    except UnicodeDecodeError:
        raise ValueError("has bytes that are not ASCII: percent-encode its UTF-8") from None
    if '"' in plain:
        if '"' in _QUOTED.sub("", plain):
            raise ValueError('has a quotation mark without its partner: write it as "%22"')
        plain = _QUOTED.sub(lambda quoted: _ESCAPED.sub(r"\1", quoted[1]), plain)
    if "%" not in plain:
        return plain
    try:
        return _PERCENT.sub(_byte, plain.encode()).decode()
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8 once its percent-encoding is read") from None


def _byte(one: re.Match[bytes]) -> bytes:
    if one[1] is None:
        raise ValueError("has a % without two hexadecimal digits: write the character itself as %25")
    return bytes.fromhex(one[1].decode())
