"""Makes an event of a webhook whose signature is right."""

from __future__ import annotations

import asyncio
from typing import Any
from urllib.parse import parse_qsl

import msgspec

from busway.contract.problems import BadField
from busway.domain.event import NewEvent
from busway.domain.event_fields import accept
from busway.domain.filter import View, compile_filter
from busway.domain.handler import FieldError
from busway.domain.source import Source, render, value_at
from busway.domain.text import JSONError, check_json, parse_json
from busway.gateway.access.signatures import Headers
from busway.gateway.errors import BadRequest, Invalid, TooLarge, UnsupportedMediaType

FORM = "application/x-www-form-urlencoded"
MOST_FIELDS = 1_000  # of a form
_encode = msgspec.json.Encoder().encode


class Challenge(msgspec.Struct):
    """The sender asks whether the URL is right. Answer with this text."""

    text: str


class Nothing(msgspec.Struct):
    """There is nothing to store: it is a ping, or the filter does not match."""


async def read_webhook(
    source: Source, headers: Headers, body: bytes, now: int, max_event_bytes: int
) -> NewEvent | Challenge | Nothing:
    """Return the event of a webhook.

    Args:
        source: what the request is signed by.
        headers: of the request.
        body: as received.
        now: microseconds since 1970.
        max_event_bytes: maximum size of an event.

    Raises:
        BadRequest: the body is not what its media type says.
        Invalid: it has no id, or its type is not valid.
        TooLarge: the event exceeds the limit.
        UnsupportedMediaType: the body is compressed.
    """
    if any(value.lower() != "identity" for value in headers.get("content-encoding", ())):
        raise UnsupportedMediaType("compressed bodies are not supported: send it without Content-Encoding")
    media_type = _first(headers, "content-type") or ""
    value, data = await _decoded(source.kind, media_type.partition(";")[0].strip().lower(), body)
    if source.kind == "slack" and value_at(value, "type") == "url_verification":
        return Challenge(_challenge(value))
    name = _event_name(source.kind, headers, value)
    if source.kind == "github" and name == "ping":
        return Nothing()
    if data is not None and len(data) > max_event_bytes:
        raise TooLarge(f"the event has {len(data)} bytes: the limit is {max_event_bytes} (--max-event-bytes)")

    def look(field: str) -> str | None:
        where, _, what = field.partition(".")
        if where == "header":
            return _first(headers, what)
        return name if where == "event" else value_at(value, what)

    event = _event(source, render(source.type, look), _webhook_id(source, headers, value), data, now)
    if value is None and data is not None:
        event.binary = True
        event.datacontenttype = media_type or None
    if source.filter is not None and not compile_filter(source.filter)(View(event)):
        return Nothing()
    return event


def _first(headers: Headers, name: str) -> str | None:
    values = headers.get(name)
    return (values[0] or None) if values else None


def _event(source: Source, type_: str, id_: str | None, data: bytes | None, now: int) -> NewEvent:
    fields = {"type": type_} if id_ is None else {"type": type_, "id": id_}
    try:
        return accept(fields, data, now, f"/hooks/{source.name}")
    except FieldError as problem:
        raise Invalid.of([BadField(["body"], f"no event can be made of this webhook: {problem}")]) from None


async def _decoded(kind: str, media_type: str, body: bytes) -> tuple[Any, bytes | None]:
    """Return the decoded body, and its JSON text. A body that is neither JSON nor a form is only bytes."""
    if not body:
        return None, None
    if media_type == FORM:
        fields = _form(body)
        payload = fields.get("payload")
        if kind not in {"github", "slack"} or not isinstance(payload, str):
            return fields, _encode(fields)
        body = payload.encode()
    elif media_type and media_type != "application/json" and not media_type.endswith("+json"):
        return None, body
    try:
        value = parse_json(body)
        await asyncio.sleep(0)
        check_json(body, value)
    except JSONError as problem:
        if not media_type:
            return None, body
        raise BadRequest(str(problem)) from None
    return value, body


def _form(body: bytes) -> dict[str, str | list[str]]:
    """Return the fields of a form. One that is there several times has a list."""
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=MOST_FIELDS
        )
    except ValueError:
        raise BadRequest(f"the body is not a form of at most {MOST_FIELDS} fields in UTF-8") from None
    fields: dict[str, str | list[str]] = {}
    for name, value in pairs:
        before = fields.get(name)
        if before is None:
            fields[name] = value
        else:
            fields[name] = [*([before] if isinstance(before, str) else before), value]
    return fields


def _challenge(value: Any) -> str:
    text = value_at(value, "challenge")
    if text is None or len(text) > 1_000 or not text.isprintable():
        raise BadRequest("a url_verification must have a challenge of at most 1000 printable characters")
    return text


def _event_name(kind: str, headers: Headers, value: Any) -> str | None:
    """Return what the sender calls its event."""
    if kind == "github":
        return _first(headers, "x-github-event")
    if kind == "slack":
        if value_at(value, "command"):
            return "command"
        return value_at(value, "event.type") or value_at(value, "type")
    return value_at(value, "type")


def _webhook_id(source: Source, headers: Headers, value: Any) -> str | None:
    """Return the id that the sender gave a webhook, which a repetition has again. None: there is none.

    Raises:
        Invalid: it is missing.
    """
    if source.kind == "slack":
        # A request without an id is known by its signature, which covers its time.
        return value_at(value, "event_id") or headers["x-slack-signature"][0]
    if source.kind == "stripe":
        found, where = value_at(value, "id"), "the member id of its body"
    else:
        name = _ID_HEADERS.get(source.kind, source.id_header)
        if name is None:
            return None
        values = headers.get(name, [])
        found, where = (values[0] if len(values) == 1 else None), f"the header {name}, once"
    if not found:
        raise Invalid.of([BadField(["body"], f"the webhook has no id, which must be in {where}")])
    return found


_ID_HEADERS = {"github": "x-github-delivery", "standard": "webhook-id"}
