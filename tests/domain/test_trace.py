"""W3C Trace Context: which `traceparent` names a trace, and ids that every process finds by itself."""

from __future__ import annotations

import pytest
from busway.domain import trace
from busway.domain.event import Event

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("value", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-03", True),
        (f"cc-{TRACE}-{SPAN}-01-what the future brings", True),
        (f"00-{TRACE}-{SPAN}-01-more", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (f"00-{TRACE.upper()}-{SPAN}-01", None),
        (f"00-{TRACE}-{SPAN}", None),
        ("00-own-own-01", None),
        ("", None),
        (7, None),
        (None, None),
    ],
)
def test_which_traceparent_names_a_trace(value: str | int | None, sampled: bool | None) -> None:
    found = trace.read_traceparent(value)
    assert (found and found.sampled) is sampled
    if found is not None:
        assert str(found) == f"00-{TRACE}-{SPAN}-{'01' if sampled else '00'}"


def event(**attributes: str) -> Event:
    return Event(
        seq=7, id="a", source="/s", type="t", time=0, attributes={**attributes}, correlationid="c", root=3
    )


def test_the_trace_of_an_event_that_names_none_is_that_of_its_tree() -> None:
    assert trace.trace_of(event(traceparent=f"00-{TRACE}-{SPAN}-01")) == int(TRACE, 16)
    assert trace.trace_of(event()) == trace.trace_of(event(traceparent="00-own-own-01"))
    assert trace.trace_of(event()) == trace.derived_trace(3, "c") != trace.derived_trace(4, "c")
    assert trace.named_trace(event().attributes) is None


def test_ids_of_spans_differ_and_are_none_that_the_format_forbids() -> None:
    spans = {
        trace.publish_span("/s", "a"),
        trace.publish_span("/", "sa"),
        trace.publish_span("/s", "a\ud800"),
    }
    spans |= {trace.attempt_span("/s", "a", run, attempt) for run in (1, 11) for attempt in (1, 2)}
    assert len(spans) == 7
    assert all(0 < span < 1 << 64 for span in spans)
