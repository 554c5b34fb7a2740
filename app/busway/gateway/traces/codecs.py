"""Codecs whose events belong to a trace."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from busway.domain import trace
from busway.domain.event import NewEvent
from busway.gateway.ingest.codecs.choosing import choose
from busway.gateway.ingest.codecs.port import Codec, Headers
from busway.gateway.ingest.reading import Read, Take
from busway.gateway.traces.switch import REQUEST_HEADERS
from busway.gateway.traces.tracer import Tracer
from busway.gateway.turns import Steps

STEP = 500  # events in one step


def choose_traced(tracer: Tracer, headers: Headers) -> Codec | None:
    """Return what reads a request. Events without `traceparent` get that of the request, or a new trace.

    Raises:
        UnsupportedMediaType, BadRequest: as `choose`.
    """
    codec = choose(headers)
    return None if codec is None else Codec(codec.media_type, partial(_read, tracer, codec))


def _read(
    tracer: Tracer,
    codec: Codec,
    headers: Headers,
    body: bytes,
    now: int,
    max_event_bytes: int,
    take: Take | None,
) -> Steps[Read]:
    given = sent(headers)

    def begin(events: Sequence[NewEvent]) -> Steps[None]:
        for number, event in enumerate(events, 1):
            tracer.begin(event, given)
            if not number % STEP:
                yield

    if take is None:
        found = yield from codec.read(headers, body, now, max_event_bytes, None)
        yield from begin(found[0])
        return found
    rest = take

    def take_traced(events: list[NewEvent]) -> Steps[None]:
        yield from begin(events)
        yield from rest(events)

    return (yield from codec.read(headers, body, now, max_event_bytes, take_traced))


def sent(headers: Headers) -> tuple[str, str] | None:
    """Return the `traceparent` and the `tracestate` of a request, None if it names no trace."""
    found = {name: value.decode("latin-1").strip() for name, value in headers if name in REQUEST_HEADERS}
    parent = found.get(b"traceparent", "")
    return None if trace.read_traceparent(parent) is None else (parent, found.get(b"tracestate", ""))
