"""Spans of handler code with the secrets masked. This module is imported only if there are traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import Link, Status

from busway.gateway.executors.python.child.masking import is_masking, masked


class MaskingExporter(SpanExporter):
    """Sends spans with another exporter. Their texts are masked like the attempt's log."""

    def __init__(self, exporter: SpanExporter) -> None:
        self._exporter = exporter

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans. A thread of the processor calls it."""
        return self._exporter.export([*map(_masked, spans)] if is_masking() else spans)

    def shutdown(self) -> None:
        """Send no more."""
        self._exporter.shutdown()


def _masked(span: ReadableSpan) -> ReadableSpan:
    status = span.status
    return ReadableSpan(
        masked(span.name),
        context=span.context,
        parent=span.parent,
        resource=span.resource,
        attributes=_values(span.attributes),
        events=[Event(masked(e.name), _values(e.attributes), e.timestamp) for e in span.events],
        links=[Link(link.context, _values(link.attributes)) for link in span.links],
        kind=span.kind,
        status=Status(status.status_code, status.description and masked(status.description)),
        start_time=span.start_time,
        end_time=span.end_time,
        instrumentation_scope=span.instrumentation_scope,
    )


def _values(attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    return {name: _value(value) for name, value in (attributes or {}).items()}


def _value(value: Any) -> Any:
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, tuple | list):
        return [_value(each) for each in value]
    if isinstance(value, Mapping):
        return _values(value)
    return value
