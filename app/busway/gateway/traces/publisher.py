"""A publisher that gives each event a trace."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from busway.domain import trace
from busway.domain.event import NewEvent
from busway.domain.handler import Rules
from busway.domain.pattern import Matcher
from busway.gateway.ingest.codecs.port import Codec, Headers
from busway.gateway.ingest.publisher import Publisher
from busway.gateway.ingest.reading import Read, Take
from busway.gateway.store.port.commits import Commits
from busway.gateway.traces.switch import REQUEST_HEADERS
from busway.gateway.traces.tracer import Tracer
from busway.gateway.turns import Steps, Turns

STEP = 500  # events in one step


class TracedPublisher(Publisher):
    """Accepts events, as `Publisher` does. An event without `traceparent` gets that of its request."""

    def __init__(
        self,
        commits: Commits,
        rules: Rules,
        clock: Callable[[], int],
        max_event_bytes: int,
        turns: Turns,
        tracer: Tracer,
    ) -> None:
        super().__init__(commits, rules, clock, max_event_bytes, turns)
        self._tracer = tracer

    def _whole(
        self, body: bytes, codec: Codec, headers: Headers, allowed: Matcher | None
    ) -> Steps[tuple[list[NewEvent], bool, list[tuple[int, bytes]] | None]]:
        return super()._whole(body, self._traced(codec), headers, allowed)

    def _in_slices(
        self, body: bytes, codec: Codec, headers: Headers, allowed: Matcher | None
    ) -> Steps[tuple[list[NewEvent], bool, list[tuple[int, bytes]] | None]]:
        return super()._in_slices(body, self._traced(codec), headers, allowed)

    def _traced(self, codec: Codec) -> Codec:
        def read(
            headers: Headers, body: bytes, now: int, max_event_bytes: int, take: Take | None
        ) -> Steps[Read]:
            given = sent(headers)

            def begin(events: Sequence[NewEvent]) -> Steps[None]:
                for number, event in enumerate(events, 1):
                    self._tracer.begin(event, given)
                    if not number % STEP:
                        yield

            def take_traced(events: list[NewEvent]) -> Steps[None]:
                assert take is not None  # noqa: S101 - it is used only then
                yield from begin(events)
                yield from take(events)

            found = yield from codec.read(
                headers, body, now, max_event_bytes, None if take is None else take_traced
            )
            if take is None:
                yield from begin(found[0])
            return found

        return Codec(codec.media_type, read)


def sent(headers: Headers) -> tuple[str, str] | None:
    """Return the `traceparent` and the `tracestate` of a request, None if it names no trace."""
    found = {name: value.decode("latin-1").strip() for name, value in headers if name in REQUEST_HEADERS}
    parent = found.get(b"traceparent", "")
    return None if trace.read_traceparent(parent) is None else (parent, found.get(b"tracestate", ""))
