"""Makes the spans of an event: publish, queue, process, settle, deliver.

Names and attributes are those of OpenTelemetry's semantic conventions for messaging. Spans are made when they
have ended, with the times that are known then. An event's payload is in no span.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from opentelemetry.sdk.trace import Event as SpanEvent
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, ParentBased
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import (
    Link,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
)

from busway.domain import trace
from busway.domain.event import Attribute, Event, NewEvent
from busway.domain.run import Error, Outcome, Run
from busway.domain.trace import TraceContext
from busway.gateway.attempts.inflight import Attempt
from busway.gateway.executors.python.wire.spans import quiet, resource
from busway.gateway.store.port.operations import Settle, Settled, StoredEvent
from busway.gateway.traces.exporting import BoundedProcessor, Losses, collector
from busway.version import __version__

_MOST_EVENTS = 200  # publish spans of one request: they are made in one turn of the loop
_STACK = 8192  # characters
_PATIENCE = 3.0  # seconds for the last spans when the gateway ends
_TRACEPARENT = 55  # characters
_UNSET = Status()


class EventTrace(msgspec.Struct, frozen=True):
    """Where an event stands in its trace.

    `own`: the span in which it was stored. `parent`: the publisher's span. None: the trace begins with `own`.
    """

    own: SpanContext
    parent: SpanContext | None


class Tracer:
    """Makes spans and sends them in the background.

    Args:
        node: the name of this node.
        clock: microseconds since 1970.

    Attributes:
        counts: spans by what became of them: `sent`, `failed`, `dropped`.
        attempts: in flight, by run. Set it before the first attempt starts.
    """

    def __init__(self, node: str, clock: Callable[[], int]) -> None:
        quiet()
        self._clock, self._random = clock, RandomIdGenerator()
        self._losses = Losses(collector())
        self.counts: Mapping[str, int] = self._losses.counts
        self.attempts: Mapping[int, Attempt] = {}
        self._resource, self._scope = resource(node), InstrumentationScope("busway", __version__)
        self._provider = TracerProvider(resource=self._resource, shutdown_on_exit=False)
        self._processor = BoundedProcessor(self._losses)
        self._provider.add_span_processor(self._processor)
        self._sampler = self._provider.sampler
        self._by_parent = isinstance(self._sampler, ParentBased)

    async def close(self) -> None:
        """Send the last spans, but do not wait long for a collector that does not answer."""
        ending = threading.Thread(target=self._provider.shutdown, name="busway-traces", daemon=True)
        ending.start()
        end = asyncio.get_running_loop().time() + _PATIENCE
        while ending.is_alive() and asyncio.get_running_loop().time() < end:
            await asyncio.sleep(0.01)

    def now(self) -> int:
        """Return the time in microseconds since 1970."""
        return self._clock()

    # -- contexts

    def begin(self, event: NewEvent, sent: tuple[str, str] | None = None) -> None:
        """Give an event a trace if it names none: that of its request, or a new one.

        `sent`: `traceparent` and `tracestate` of the request.
        """
        attributes = event.attributes
        if trace.TRACEPARENT in attributes:
            return
        if sent is not None:
            attributes[trace.TRACEPARENT] = sent[0]
            if sent[1]:
                attributes[trace.TRACESTATE] = sent[1]
            return
        new = self._random.generate_trace_id()
        own = trace.publish_span(event.source, event.id)
        attributes[trace.TRACEPARENT] = str(TraceContext(new, own, self._samples(new)))

    def _samples(self, trace_id: int) -> bool:
        found = self._sampler.should_sample(None, trace_id, "publish", SpanKind.PRODUCER)
        return found.decision is Decision.RECORD_AND_SAMPLE

    def of(self, event: Event) -> EventTrace:
        """Return where a stored event stands in its trace."""
        return self._of(event.attributes, event.source, event.id, event.root, event.correlationid)

    def _of(
        self, attributes: Mapping[str, Attribute], source: str, id_: str, root: int, correlationid: str
    ) -> EventTrace:
        given, span = trace.given(attributes), trace.publish_span(source, id_)
        if given is None:
            new = trace.derived_trace(root, correlationid)
            return EventTrace(_context(new, span, self._samples(new)), None)
        state = _state(attributes.get(trace.TRACESTATE))
        own = _context(given.trace, span, given.sampled, state)
        if given.span == span:  # it began here
            return EventTrace(own, None)
        return EventTrace(own, _context(given.trace, given.span, given.sampled, state))

    # -- spans

    def published(
        self, events: Sequence[NewEvent], stored: Sequence[StoredEvent], cause: SpanContext | None = None
    ) -> None:
        """Make the spans of events that were stored now. `cause`: the span of the attempt that published."""
        now = self._clock()
        for event, one in zip(events[:_MOST_EVENTS], stored, strict=False):
            if not one.duplicate:
                self._publish_span(event, one.seq, now, cause)
        if len(events) > _MOST_EVENTS:
            self._losses.add("dropped", len(events) - _MOST_EVENTS)

    def refused(self, events: Sequence[NewEvent], problem: BaseException) -> None:
        """Make the spans of events that could not be stored."""
        now, error = self._clock(), Error(type(problem).__name__, str(problem))
        for event in events[:_MOST_EVENTS]:
            self._publish_span(event, 0, now, None, error)

    def _publish_span(
        self, event: NewEvent, seq: int, now: int, cause: SpanContext | None, error: Error | None = None
    ) -> None:
        if self.is_unsampled(event.attributes):
            return
        place = self._of(event.attributes, event.source, event.id, event.root or seq, event.correlationid)
        parent, links = place.parent, []
        if cause is not None:
            if cause.trace_id == place.own.trace_id:
                parent = cause
            else:
                links.append(Link(cause))
        attributes = self._about("publish", "send", event, seq)
        attributes["cloudevents.event_id"], attributes["cloudevents.event_type"] = event.id, event.type
        attributes["cloudevents.event_source"] = event.source
        if event.subject is not None:
            attributes["cloudevents.event_subject"] = event.subject
        attributes["messaging.message.body.size"] = len(event.data or b"")
        own = self._below(place.own) if error else place.own
        times = min(event.accepted_at, now), now
        self._make(f"publish {event.type}", SpanKind.PRODUCER, parent, own, times, attributes, error, links)

    def settled(self, operation: Settle, run: Run, handler: str, reply: Settled) -> None:
        """Make the spans of an attempt whose outcome is stored, and of the events that it published."""
        if not reply.accepted:
            return
        if self.is_unsampled(run.event.attributes):
            if operation.published:
                self.published(
                    operation.published, reply.stored, self._attempt_context(run, operation.attempt)
                )
            return
        now, report = self._clock(), operation.report
        attempt = self._attempt(
            run,
            handler,
            operation.attempt,
            (report.started_at, report.finished_at),
            report.error,
            {
                "busway.handler.revision": report.revision,
                "busway.outcome": str(report.outcome),
                "busway.run.state": str(operation.state),
                "busway.pool": report.pool,
                "busway.worker": report.worker,
            },
        )
        event = run.event
        attributes = {
            "messaging.system": "busway",
            "messaging.operation.name": "settle",
            "messaging.operation.type": "settle",
            "messaging.destination.name": event.type,
            "busway.run": run.id,
        }
        times = min(report.finished_at, now), now
        own = self._below(attempt)
        self._make(f"settle {event.type}", SpanKind.INTERNAL, attempt, own, times, attributes)
        self.published(operation.published, reply.stored, attempt)

    def cancelled(self, run: Run, handler: str, attempt: int, started_at: int) -> None:
        """Make the span of an attempt that was cancelled while it ran."""
        error = Error("Cancelled", "the run was cancelled while this attempt ran")
        outcome = {"busway.outcome": str(Outcome.CANCELLED)}
        self._attempt(run, handler, attempt, (started_at, self._clock()), error, outcome)

    def _attempt(
        self,
        run: Run,
        handler: str,
        attempt: int,
        times: tuple[int, int],
        error: Error | None,
        more: Mapping[str, str | int | None],
    ) -> SpanContext:
        event, place = run.event, self.of(run.event)
        own = self._attempt_context(run, attempt)
        attributes = self._about("process", "process", event, event.seq)
        attributes |= {
            "messaging.consumer.group.name": handler,
            "busway.handler": handler,
            "busway.run": run.id,
            "busway.attempt": attempt,
        }
        if run.replay:
            attributes["busway.replay"] = abs(run.replay)
        waited = min(run.since or times[0], times[0]), times[0]
        queue = {"busway.handler": handler, "busway.run": run.id, "busway.attempt": attempt}
        above = place.own
        self._make(f"queue {handler}", SpanKind.INTERNAL, above, self._below(above), waited, queue)
        attributes |= {name: value for name, value in more.items() if value is not None}
        self._make(f"process {event.type}", SpanKind.CONSUMER, above, own, times, attributes, error)
        return own

    def _attempt_context(self, run: Run, attempt: int) -> SpanContext:
        event, own = run.event, self.of(run.event).own
        span = trace.attempt_span(event.source, event.id, run.id, attempt)
        return _context(own.trace_id, span, own.trace_flags.sampled, own.trace_state)

    def delivered(
        self, place: EventTrace, item: Delivered, subscription: str | None, times: tuple[int, int]
    ) -> None:
        """Make the span of a result that was sent to a client. `subscription`: its name, if it is of one."""
        event = item.event
        span = trace.attempt_span(event.source, event.id, item.run, item.attempt)
        flags, state = place.own.trace_flags.sampled, place.own.trace_state
        attempt = _context(place.own.trace_id, span, flags, state)
        attributes = self._about("deliver", "send", event, event.seq)
        attributes |= {
            "busway.handler": item.handler,
            "busway.run": item.run,
            "busway.attempt": item.attempt,
            "busway.result": item.kind,
        }
        if subscription:
            attributes["messaging.destination.subscription.name"] = subscription
        own = self._below(attempt)
        self._make(f"deliver {event.type}", SpanKind.PRODUCER, attempt, own, times, attributes)

    def is_unsampled(self, attributes: Mapping[str, Attribute]) -> bool:
        """Return whether an event with these attributes has no spans. This is quick, and may miss some."""
        value = attributes.get(trace.TRACEPARENT)
        return (
            self._by_parent
            and isinstance(value, str)
            and len(value) == _TRACEPARENT
            and value.startswith("00-")
            and value.endswith("-00")
        )

    def _below(self, above: SpanContext) -> SpanContext:
        """Return the context of a span below another one."""
        span = self._random.generate_span_id()
        return SpanContext(above.trace_id, span, False, above.trace_flags, above.trace_state)

    def _about(
        self, name: str, type_: str, event: NewEvent | Event | DeliveredEvent, seq: int
    ) -> dict[str, str | int]:
        about: dict[str, str | int] = {
            "messaging.system": "busway",
            "messaging.operation.name": name,
            "messaging.operation.type": type_,
            "messaging.destination.name": event.type,
            "messaging.message.id": event.id,
        }
        if seq:
            about["busway.event.seq"] = seq
        return about

    def _make(
        self,
        name: str,
        kind: SpanKind,
        parent: SpanContext | None,
        own: SpanContext,
        times: tuple[int, int],
        attributes: dict[str, Any],
        error: Error | None = None,
        links: Sequence[Link] = (),
    ) -> None:
        """Make a span that has ended, without the recording span of the SDK, which takes most of the time."""
        if self._by_parent:
            if not own.trace_flags.sampled:
                return
        elif not self._samples(own.trace_id):
            return
        else:
            own = _context(own.trace_id, own.span_id, True, own.trace_state)
        start, end = times[0] * 1000, max(times) * 1000
        events, status = [], _UNSET
        if error is not None:
            attributes["error.type"] = error.type
            about = {"exception.type": error.type, "exception.message": error.message}
            if error.traceback:
                about["exception.stacktrace"] = error.traceback[-_STACK:]
            events.append(SpanEvent("exception", about, timestamp=end))
            status = Status(StatusCode.ERROR, f"{error.type}: {error.message}")
        span = ReadableSpan(
            name, own, parent, self._resource, attributes, events, links, kind, status=status,
            start_time=start, end_time=end, instrumentation_scope=self._scope,
        )  # fmt: skip
        self._processor.on_end(span)


class DeliveredEvent(msgspec.Struct):
    """What a result on its way to a subscriber says about its event."""

    seq: int
    id: str
    type: str
    source: str
    subject: str | None


class Delivered(msgspec.Struct):
    """What a result on its way to a subscriber says that is in its span."""

    kind: str
    event: DeliveredEvent
    handler: str
    run: int
    attempt: int


def _context(trace_id: int, span: int, sampled: bool, state: TraceState | None = None) -> SpanContext:
    return SpanContext(trace_id, span, True, TraceFlags(int(sampled)), state)


def _state(value: Attribute | None) -> TraceState | None:
    return TraceState.from_header([value]) if isinstance(value, str) and value else None
