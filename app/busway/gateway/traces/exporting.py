"""Sends spans in the background. What the collector does not take is counted, and never waited for."""

from __future__ import annotations

import logging
import os
import threading
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
_LOOK = 5.0  # seconds for a collector to answer when the gateway starts


class Reasons(logging.Handler):
    """Keeps why the collector did not take spans the last time, from the log of OpenTelemetry's exporter.

    That names no header and no address: both may have credentials. `last`: the reason, or empty.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.last = ""
        exporter = logging.getLogger("opentelemetry.exporter")
        exporter.setLevel(logging.WARNING)
        exporter.propagate = False
        exporter.handlers[:] = [self]

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a reason: a status, or a kind of error."""
        about = record.args if isinstance(record.args, tuple) else ()
        for each in about:
            if isinstance(each, int):
                self.last = f"status {each}"
                return
        for each in about:
            if isinstance(each, Exception):
                self.last = type(each).__name__


class Losses:
    """Counts spans, and says at most once a minute that some were lost.

    Attributes:
        counts: spans that were `sent`, that could not be sent (`failed`), and that found the queue full
            (`dropped`).
    """

    def __init__(self, where: str) -> None:
        self.counts = Counter(sent=0, failed=0, dropped=0)
        self._reasons = Reasons()
        self._where, self._said, self._lost = where, float("-inf"), 0
        self._saying = threading.Lock()

    def add(self, outcome: str, number: int) -> None:
        """Count spans."""
        self.counts[outcome] += number
        if outcome == "sent":
            return
        self._lost += number
        if self._may_say():
            lost, self._lost = self._lost, 0
            why = self._reasons.last or "it is too slow"
            log.warning("%s does not take spans (%s): %d are lost", self._where, why, lost)

    def refused(self) -> None:
        """Say that the collector does not take spans, unless spans were lost meanwhile and that was said."""
        if not self._may_say():
            return
        log.warning(
            "%s does not take spans (%s): they are lost until it does. Check OTEL_EXPORTER_OTLP_ENDPOINT",
            self._where,
            self._reasons.last or "no answer",
        )

    def _may_say(self) -> bool:
        with self._saying:
            now = time.monotonic()
            if now - self._said < _SAY_EVERY:
                return False
            self._said = now
            return True


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

    def look(self) -> None:
        """Find out in the background whether the collector takes spans, and say if it does not."""
        threading.Thread(target=self._look, name="busway-traces-look", daemon=True).start()

    def _look(self) -> None:
        if OTLPSpanExporter(timeout=_LOOK).export(()) is not SpanExportResult.SUCCESS:
            self._losses.refused()

    def shutdown(self) -> None:
        """Send no more."""
        self._exporter.shutdown()  # type: ignore[no-untyped-call]


class BoundedProcessor(SpanProcessor):
    """Keeps spans until they are sent, a limited number. Others are dropped and counted."""

    def __init__(self, losses: Losses) -> None:
        self.room, self._losses, self._taken = room(), losses, 0
        exporter = CountedExporter(losses)
        exporter.look()
        self._batches = batches(exporter)

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
