"""An attempt as a request: the event in CloudEvents' binary mode, signed."""

from __future__ import annotations

import time
from collections.abc import Callable

from busway.domain import times, trace
from busway.domain.cloudevents import declares_json, encode_header, text
from busway.domain.event import Event
from busway.domain.signing import sign
from busway.domain.text import parse_json
from busway.domain.weburl import WebURL
from busway.gateway.executors.port import Assignment
from busway.version import __version__

_USER_AGENT = f"busway/{__version__}".encode()
_JSON = "application/json"
_TRACE = frozenset({"traceparent", "tracestate"})  # they have headers of their own, too

Headers = list[tuple[bytes, bytes]]
Build = Callable[[Assignment, WebURL, str, list[str]], tuple[Headers, bytes]]
"""As `build`."""


def build(assignment: Assignment, url: WebURL, epoch: str, secrets: list[str]) -> tuple[Headers, bytes]:
    """Return the headers and the body.

    Args:
        assignment: the attempt.
        url: where it goes.
        epoch: names the database, so that the id of a run differs from that of another one.
        secrets: sign it.
    """
    event = assignment.event
    body, content_type = _content(event)
    now = int(time.time())
    id_ = message_id(assignment, epoch)
    headers: Headers = [
        (b"host", url.authority.encode()),
        (b"user-agent", _USER_AGENT),
        (b"accept", b"application/json, */*;q=0.5"),
        (b"accept-encoding", b"identity"),
        (b"content-length", b"%d" % len(body)),
        (b"webhook-id", id_.encode()),
        (b"webhook-timestamp", b"%d" % now),
        (b"webhook-signature", sign(secrets, id_, now, body).encode()),
        (b"busway-handler", assignment.handler.encode()),
        (b"busway-run", b"%d" % assignment.run),
        (b"busway-attempt", b"%d" % assignment.attempt),
        (b"ce-specversion", b"1.0"),
        (b"ce-id", encode_header(event.id).encode()),
        (b"ce-source", encode_header(event.source).encode()),
        (b"ce-type", encode_header(event.type).encode()),
        (b"ce-time", times.to_text(event.time).encode()),
    ]
    if assignment.replay:
        headers.append((b"busway-replay", b"live" if assignment.replay > 0 else b"shadow"))
    if content_type is not None:
        headers.append((b"content-type", content_type.strip().encode("ascii", "replace")))
    if event.subject is not None:
        headers.append((b"ce-subject", encode_header(event.subject).encode()))
    for name, value in event.attributes.items():
        encoded = encode_header(text(value)).encode()
        headers.append((f"ce-{name}".encode(), encoded))
        if name in _TRACE:
            headers.append((name.encode(), encoded))
    if "correlationid" not in event.attributes:
        headers.append((b"ce-correlationid", encode_header(event.correlationid).encode()))
    return headers, body


def build_traced(
    assignment: Assignment, url: WebURL, epoch: str, secrets: list[str]
) -> tuple[Headers, bytes]:
    """Return what `build` does, with the span of the attempt as `traceparent`. `ce-traceparent` stays."""
    headers, body = build(assignment, url, epoch, secrets)
    event = assignment.event
    context = trace.given(event.attributes)
    if context is not None:
        span = trace.attempt_span(event.source, event.id, assignment.run, assignment.attempt)
        parent = str(trace.TraceContext(context.trace, span, context.sampled)).encode()
        headers = [(name, parent if name == b"traceparent" else value) for name, value in headers]
    return headers, body


def message_id(assignment: Assignment, epoch: str) -> str:
    """Return the id that all attempts of a run have, so that the receiver recognises a repeated one."""
    return f"msg_{epoch}_{assignment.run or f'test_{assignment.token}'}"


def _content(event: Event) -> tuple[bytes, str | None]:
    """Return the payload as bytes, with its media type. JSON text of another type is that text."""
    data, media_type = event.data, event.datacontenttype
    if data is None:
        return b"", media_type
    if event.binary:
        return data, media_type or "application/octet-stream"
    if media_type is not None and data.startswith(b'"') and not declares_json(media_type):
        return str(parse_json(data)).encode(), media_type
    return data, media_type or _JSON
