"""Traces of events: W3C Trace Context, and ids of spans that every process of every node finds by itself."""

from __future__ import annotations

import re
from collections.abc import Mapping
from hashlib import blake2b

import msgspec

from busway.domain.event import Attribute, Event

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"
_FORM = re.compile(r"(?!ff)([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)


class TraceContext(msgspec.Struct, frozen=True, gc=False):
    """A span of a trace. `sampled`: whether its trace is recorded."""

    trace: int
    span: int
    sampled: bool

    def __str__(self) -> str:
        return f"00-{self.trace:032x}-{self.span:016x}-{self.sampled:02x}"


def read_traceparent(value: Attribute | None) -> TraceContext | None:
    """Return the context that a `traceparent` names, None if it names none."""
    form = _FORM.fullmatch(value) if isinstance(value, str) else None
    if form is None or (form[1] == "00" and form[5]):
        return None
    trace, span = int(form[2], 16), int(form[3], 16)
    return TraceContext(trace, span, bool(int(form[4], 16) & 1)) if trace and span else None


def given(attributes: Mapping[str, Attribute]) -> TraceContext | None:
    """Return the context in an event's attributes, None if there is none."""
    return read_traceparent(attributes.get(TRACEPARENT))


def trace_of(event: Event) -> int:
    """Return the id of the trace to which an event belongs. If it names none, its tree has one."""
    context = given(event.attributes)
    return derived_trace(event.root, event.correlationid) if context is None else context.trace


def named_trace(attributes: Mapping[str, Attribute]) -> str | None:
    """Return the id of the trace that attributes name, as text for logs."""
    context = given(attributes)
    return None if context is None else f"{context.trace:032x}"


def derived_trace(root: int, correlationid: str) -> int:
    """Return the id of the trace of a tree of events that names none."""
    return _hashed(16, str(root), correlationid)


def publish_span(source: str, id_: str) -> int:
    """Return the id of the span in which an event was stored."""
    return _hashed(8, source, id_)


def attempt_span(source: str, id_: str, run: int, attempt: int) -> int:
    """Return the id of the span of an attempt for an event."""
    return _hashed(8, source, id_, str(run), str(attempt))


def _hashed(size: int, *parts: str) -> int:
    text = "\0".join(parts).encode("utf-8", "backslashreplace")
    return int.from_bytes(blake2b(text, digest_size=size).digest(), "big") or 1
