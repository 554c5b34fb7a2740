"""Sends spans in the background. What the collector does not take is counted, and never waited for."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from busway.gateway.executors.python.wire.spans import batches, room

log = logging.getLogger("busway.traces")

_SAY_EVERY = 60.0  # seconds


class Losses:
    """Counts spans, and says at most once a minute that some were lost.

    Attributes:
        counts: spans that were `sent`, that could not be sent (`failed`), and that found the queue full
            (`dropped`).
    """

    def __init__(self, where: str) -> None:
        self.counts = Counter(sent=0, failed=0, dropped=0)
        self._where, self._said, self._lost = where, float("-inf"), 0

    def add(self, outcome: str, number: int) -> None:
        """Count spans."""
        self.counts[outcome] += number
        if outcome == "sent":
            return
        self._lost += number
        now = time.monotonic()
        if now - self._said >= _SAY_EVERY:
            lost, self._lost, self._said = self._lost, 0, now
            log.warning(
                "%d spans of traces are lost: %s does not take them, or too slowly", lost, self._where
            )


class CountedExporter(SpanExporter):
    """Sends batches over OTLP/HTTP, as the variables `OTEL_EXPORTER_OTLP_…` say."""

    def __init__(self, losses: Losses) -> None:
        self._exporter, self._losses = OTLPSpanExporter(), losses

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Send spans. A thread of the processor calls it."""
        result = SpanExportResult.FAILURE
        try:
            result = self._exporter.export(spans)
        finally:
            self._losses.add("sent" if result is SpanExportResult.SUCCESS else "failed", len(spans))
        return result

    def shutdown(self) -> None:
        """Send no more."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]


class BoundedProcessor(SpanProcessor):
    """Keeps spans until they are sent, a limited number. Others are dropped and counted."""

    def __init__(self, losses: Losses) -> None:
        self.room, self._losses, self._taken = room(), losses, 0
        self._batches = batches(CountedExporter(losses))

    def on_end(self, span: ReadableSpan) -> None:
        """Keep a span."""
        if span.context is None or not span.context.trace_flags.sampled:
            return
        counts = self._losses.counts
        if self._taken - counts["sent"] - counts["failed"] >= self.room:
            self._losses.add("dropped", 1)
            return
        self._taken += 1
        self._batches.on_end(span)

    def shutdown(self) -> None:
        """Send what is kept, and no more."""
        self._batches.shutdown()  # type: ignore[no-untyped-call]

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Send what is kept."""
        return self._batches.force_flush(timeout_millis)


def collector(environment: Mapping[str, str] = os.environ) -> str:
    """Return the host of the collector, without credentials that its address may have."""
    for name in ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT"):
        if text := environment.get(name, "").strip():
            return urlsplit(text).netloc.rpartition("@")[2]
    return "the collector"
