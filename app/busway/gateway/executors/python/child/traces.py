"""Spans of handler code, in workers. This module is imported only if the gateway makes traces.

The span of the attempt, which the gateway makes, is current while handler code runs.
"""

from __future__ import annotations

import threading
from typing import Any

from opentelemetry import context as contexts
from opentelemetry import trace as otel
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Decision, Sampler

from busway.domain import trace
from busway.gateway.executors.python.child.invocation import Invocation
from busway.gateway.executors.python.child.loading import LoadedTarget
from busway.gateway.executors.python.child.masked_spans import MaskingExporter
from busway.gateway.executors.python.wire.spans import batches, quiet, resource

_PATIENCE = 1.0  # seconds for the last spans of a worker
_sampler: list[Sampler] = []


def begin(node: str) -> None:
    """Let spans of this process be sent, unless handler code has a provider of its own."""
    quiet()  # the gateway says if the collector does not take spans
    provider = TracerProvider(resource=resource(node), shutdown_on_exit=False)
    _sampler[:] = [provider.sampler]
    if isinstance(otel.get_tracer_provider(), otel.ProxyTracerProvider):
        provider.add_span_processor(batches(MaskingExporter(OTLPSpanExporter())))
        otel.set_tracer_provider(provider)


def end() -> None:
    """Send the last spans, but do not wait long for a collector that does not answer."""
    shutdown = getattr(otel.get_tracer_provider(), "shutdown", None)
    if shutdown is not None:
        ending = threading.Thread(target=shutdown, daemon=True)
        ending.start()
        ending.join(_PATIENCE)


class TracedInvocation(Invocation):
    """An attempt whose span is current while its target runs."""

    __slots__ = ()

    def invoke(self, target: LoadedTarget) -> Any:
        """Call the target. The context is that of the attempt, so nothing has to be reset."""
        call = self.call
        event = call.event
        given, id_ = trace.given(event.attributes), trace.trace_of(event)
        if given is None:
            found = _sampler[0].should_sample(None, id_, "publish").decision
            sampled = found is Decision.RECORD_AND_SAMPLE
        else:
            sampled = given.sampled
        span = otel.SpanContext(
            id_,
            trace.attempt_span(event.source, event.id, call.run, call.attempt),
            True,
            otel.TraceFlags(int(sampled)),
        )
        contexts.attach(otel.set_span_in_context(otel.NonRecordingSpan(span)))
        return super().invoke(target)
