"""Bodies are read in steps, whose number grows with the body; what they say does not depend on the steps."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from busway.domain.event import NewEvent
from busway.gateway.errors import BadRequest, BuswayError, Invalid, TooLarge
from busway.gateway.ingest.codecs.plain import PLAIN
from busway.gateway.ingest.reading import MAX_EVENTS, SLICE_BYTES, SLICE_EVENTS

LIMIT = 1_000_000
PAD = b" " * (SLICE_BYTES + 1)


def read(body: bytes, limit: int = LIMIT) -> tuple[list[NewEvent], int]:
    """Return the events, and how many steps they took."""
    steps, work = 1, PLAIN.read((), body, 0, limit, None)
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value[0], steps
        steps += 1


def array(*events: Any) -> bytes:
    return msgspec.json.encode(events)


def test_a_small_body_takes_one_step() -> None:
    assert read(b'{"type":"t"}')[1] == 1
    assert read(array(*[{"type": "t"}] * 200))[1] == 1


def test_each_step_of_an_array_has_so_many_events_and_bytes() -> None:
    events, steps = read(array(*[{"type": "t"}] * MAX_EVENTS))
    assert len(events) == MAX_EVENTS
    assert steps >= MAX_EVENTS // SLICE_EVENTS
    events, steps = read(array(*[{"type": "t", "data": "x" * 3000}] * 1000))
    assert [event.data for event in events] == [b'"' + b"x" * 3000 + b'"'] * 1000
    assert steps >= 3_000_000 // SLICE_BYTES


def test_a_large_event_takes_several_steps() -> None:
    (event,), steps = read(msgspec.json.encode({"type": "t", "data": [{}] * 100_000}))
    assert event.data == b"[" + b"{}," * 99_999 + b"{}]"
    assert steps > 1


def test_payloads_keep_their_bytes_in_a_large_array_too() -> None:
    one = b' { "data" : [1.50, {"a" :"\\u00e9]},"}] ,"type":"t"} '
    events, _ = read(b" \n[" + b",".join([one] * 5000) + b"] ")
    assert {event.data for event in events} == {b'[1.50, {"a" :"\\u00e9]},"}]'}


@pytest.mark.parametrize("pad", [b"", PAD], ids=["small", "large"])
@pytest.mark.parametrize(
    "body",
    [
        b'[{"type":"t"} {"type":"t"}]',
        b'[{"type":"t"},]',
        b'[{"type":"t"}',
        b'[{"type":"t"},',
        b'[{"type":"t"}] x',
        b'[{"type":"t"}]]',
        b'[{"type":"t"},{"type"]',
        b'[{"type":"t"},{"type":"t","data":NaN}]',
        b'[{"type":"t"},{"type":"t","data":"\xff"}]',
        b'[{"type":"t"},{"type":"t","data":' + b"[" * 99 + b"]" * 99 + b"}]",
        b'[{"type":5},{"type":"t","data":' + b"9" * 400 + b"}]",
        b"[" * 4000 + b"]" * 4000,
    ],
)
def test_what_is_no_json_is_refused_as_such(body: bytes, pad: bytes) -> None:
    with pytest.raises(BadRequest):
        read(body[:1] + b'{"type":"t"},' * (len(pad) // 10) + body[1:] if pad else body)


def test_all_bad_fields_are_named_wherever_the_slices_end() -> None:
    events = [{"type": "t"}] * 600
    events[3] = events[599] = {"type": 5}
    events[299] = {"type": "t", "id": 5, "colour": None}
    with pytest.raises(Invalid) as found:
        read(array(*events))
    places = [field.loc for field in found.value.errors or []]
    assert places == [
        ["body", 3, "type"], ["body", 299, "id"], ["body", 299, "colour"], ["body", 599, "type"],
    ]  # fmt: skip


@pytest.mark.parametrize("event", [b"{}", b'{"type":"t"}', b"1"])
def test_an_array_of_too_many_is_refused_before_it_is_split(event: bytes) -> None:
    body = b"[" + (event + b",") * 1_000_000 + event + b"]"
    steps, work = 0, PLAIN.read((), body, 0, LIMIT, None)
    with pytest.raises(Invalid, match="10000"):  # noqa: PT012 - each step may raise it
        for _ in work:
            steps += 1
    assert steps <= MAX_EVENTS // SLICE_EVENTS + 3


def test_one_too_large_is_refused_before_it_is_decoded() -> None:
    for body in (
        b'{"type":"t","data":[' + b"{}," * 1_000_000 + b"{}]}",
        b'[{"type":"t"},{"type":"t","data":[' + b"{}," * 1_000_000 + b"{}]}]",
    ):
        with pytest.raises(TooLarge, match="1000000"):
            read(body)


def test_the_members_of_an_event_are_bounded() -> None:
    many = {"type": "t", **{f"a{n}": "x" for n in range(2000)}}
    with pytest.raises(BuswayError, match="1000"):
        read(msgspec.json.encode(many))
    few = {"type": "t", **{f"a{n}": "x" for n in range(500)}}
    assert len(read(msgspec.json.encode(few))[0][0].attributes) == 500


@pytest.mark.parametrize("levels", [101, 4_000, 490_000])
@pytest.mark.parametrize("form", [b'{"type":"t","data":%b}', b'[{"type":"t","data":%b}]', b"%b"])
def test_deep_bodies_are_refused_whatever_python_recurses_to(levels: int, form: bytes) -> None:
    with pytest.raises(BadRequest, match="100"):
        read(form % (b"[" * levels + b"]" * levels), LIMIT)
