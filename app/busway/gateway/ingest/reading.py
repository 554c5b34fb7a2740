"""Reads validated events from request bodies. Payloads keep their received bytes.

Large bodies are read in steps: an array is split first, then decoded and checked slice by slice.
"""

from __future__ import annotations

import bisect
import heapq
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import msgspec

from busway.contract.checking import MOST
from busway.contract.problems import BadField
from busway.domain.event import NewEvent
from busway.domain.event_fields import accept, faults
from busway.domain.handler import FieldError
from busway.domain.text import JSONError, check_json, decode_json, parse_json
from busway.gateway.errors import BadRequest, Invalid, TooLarge
from busway.gateway.turns import Steps

MAX_EVENTS = 10_000
SLICE_EVENTS = 256  # events of an array that one step reads
SLICE_BYTES = 65_536  # bytes, likewise, unless it is one event
_SMALL = 1_048_576  # bytes of an array that one step splits
_SPACE = 4_096  # bytes of white space between the events of a large array
_CUT = "truncated"
_BEHIND = re.compile(r"trailing characters \(byte ([0-9]+)\)")
_ARRAY = re.compile(rb"[ \t\r\n]*\[")
_BLANK = re.compile(rb"[ \t\r\n]*")
Part = msgspec.Raw | memoryview
Take = Callable[[list[NewEvent]], Steps[None]]
Read = tuple[list[NewEvent], bool]
"""The events of a body, and whether it is an array."""


class _Payload(msgspec.Struct):
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


_decode_payload = msgspec.json.Decoder(_Payload).decode


def _payload(fields: dict[str, Any], raw: bytes | Part) -> bytes | None:
    if "data" not in fields:
        return None
    data = _decode_payload(raw).data
    return None if isinstance(data, msgspec.UnsetType) else bytes(data)


class Checks(NamedTuple):
    """What is asked of an event in JSON.

    Attributes:
        accept: returns the event, given its members, the JSON text of `data`, and the time. May raise
            FieldError.
        faults: returns what is wrong with members that `accept` refuses.
        payload: returns the JSON text of `data`, given the members and the text of the event. May raise
            FieldError.
    """

    accept: Callable[[dict[str, Any], bytes | None, int], NewEvent]
    faults: Callable[[dict[str, Any], int], list[FieldError]]
    payload: Callable[[dict[str, Any], bytes | Part], bytes | None] = _payload


PLAIN_CHECKS = Checks(accept, faults)
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_split = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_most = msgspec.json.Decoder(
    msgspec.defstruct(
        "_Most",
        [(f"e{n}", msgspec.Raw | msgspec.UnsetType, msgspec.UNSET) for n in range(MAX_EVENTS)],
        array_like=True,
        forbid_unknown_fields=True,
    )
).decode
_decode_one = msgspec.json.Decoder(msgspec.Raw).decode


def is_array(body: bytes) -> bool:
    """Return whether a JSON text begins an array."""
    return _ARRAY.match(body) is not None


def outside(type_: str) -> str:
    """Return why a key that is limited to type patterns may not publish an event of another type."""
    return f"this API key may not publish events of the type {type_!r}: its type patterns do not match"


_ONE = 'the body must be one event, {"type": …, "data": …}, or an array of events'


def read_one(
    body: bytes,
    now: int,
    max_event_bytes: int,
    take: Take | None = None,
    checks: Checks = PLAIN_CHECKS,
    form: str = _ONE,
) -> Steps[Read]:
    """Read one event, in steps.

    `form` says what the body must be. Other arguments and exceptions are as in `read_array`.
    """
    if len(body) > max_event_bytes:
        check_size(body, max_event_bytes)
    value = _decode(body) if len(body) <= SLICE_BYTES else (yield from decoded(body))
    if type(value) is not dict:
        raise invalid(form)
    try:
        events = [checks.accept(value, checks.payload(value, body), now)]
    except FieldError:
        raise Invalid.of(_bad(value, body, now, (), checks)) from None
    del value
    if take is not None:
        yield from take(events)
    return events, False


def read_array(
    body: bytes,
    now: int,
    max_event_bytes: int,
    take: Take | None = None,
    checks: Checks = PLAIN_CHECKS,
    least: int = 1,
) -> Steps[Read]:
    """Read an array of events, in steps.

    Args:
        body: the JSON text.
        now: microseconds since 1970.
        max_event_bytes: maximum size of one event.
        take: gets the events of each slice, before the next slice is read. Later events may still be invalid.
        checks: of the members.
        least: how many events the array must have.

    Raises:
        BadRequest: the body is not JSON that Busway accepts.
        Invalid: members of events are invalid. `errors` has all of them.
        TooLarge: an event exceeds the limit.
    """
    parts = yield from _parts(body, max_event_bytes, least)
    if not parts:
        return [], True
    sizes = [*map(len, parts)]
    if max(sizes) > max_event_bytes:
        for at, part in enumerate(parts):
            check_size(part, max_event_bytes, at)
    events: list[NewEvent] = []
    bad: list[BadField] = []
    for start, stop in _slices(sizes):
        if start:
            yield
        raws = parts[start:stop]
        whole = len(raws) == len(parts) and len(body) <= SLICE_BYTES
        values = yield from decoded(body if whole else b"[%b]" % b",".join(raws), raws)
        accepted = None if bad else accept_all(values, raws, now, checks)
        if accepted is None:
            found = (
                each
                for at, (value, raw) in enumerate(zip(values, raws, strict=True), start)
                for each in _bad(value, raw, now, (at,), checks)
            )
            bad += itertools.islice(found, MOST - len(bad))
            continue
        events += accepted
        if take is not None:
            del values
            yield from take(accepted)
    if bad:
        raise Invalid.of(bad)
    return events, True


def accept_all(
    values: list[Any], raws: Sequence[Part | bytes], now: int, checks: Checks = PLAIN_CHECKS
) -> list[NewEvent] | None:
    """Return the events, or None if one of them is invalid."""
    events: list[NewEvent] = []
    try:
        for value, raw in zip(values, raws, strict=True):
            if type(value) is not dict:
                return None
            events.append(checks.accept(value, checks.payload(value, raw), now))
    except FieldError:
        return None
    return events


def _parts(body: bytes, max_event_bytes: int, least: int) -> Steps[Sequence[Part]]:
    """Split an array into its events without decoding them.

    Raises:
        BadRequest: the body is not JSON.
        Invalid: the array has no events, or too many.
    """
    try:
        if len(body) <= SLICE_BYTES:
            parts: Sequence[Part] = _split(body)
        elif len(body) <= _SMALL:
            yield
            parts = _split_small(body)
        else:
            yield
            parts = yield from _split_large(memoryview(body), max_event_bytes)
    except RecursionError:
        parts = []
        yield from decoded(body)  # raises BadRequest
    except msgspec.ValidationError:
        raise _many(least) from None
    except msgspec.MsgspecError as problem:
        raise BadRequest(f"the body is not JSON: {problem}") from None
    if not least <= len(parts) <= MAX_EVENTS:
        raise _many(least)
    return parts


def _many(least: int) -> Invalid:
    return invalid(f"an array must have {least} to {MAX_EVENTS} events: send several requests")


def _split_small(body: bytes) -> Sequence[Part]:
    """Split an array. A struct ends the decoding at the first event too many; a list would not."""
    found = msgspec.structs.astuple(_decode_most(body))
    return found[: found.index(msgspec.UNSET)] if found[-1] is msgspec.UNSET else found


def _split_large(body: memoryview, max_event_bytes: int) -> Steps[list[Part]]:
    """Split an array event by event, so that neither its size nor its number of events matters.

    msgspec decodes one value. Its error says at which byte the rest of the text begins.
    """
    parts: list[Part] = []
    opening = _ARRAY.match(body)
    at, seen = opening.end() if opening else 0, 0
    while len(parts) <= MAX_EVENTS:
        window = body[at : at + max_event_bytes + _SPACE]
        try:
            _decode_one(window)
        except msgspec.DecodeError as problem:
            behind = _BEHIND.search(str(problem))
            if behind is None:
                if len(window) > max_event_bytes and _CUT in str(problem):
                    check_size(window, max_event_bytes, len(parts))
                raise
            end = at + int(behind[1]) - 1
        else:
            raise BadRequest("the body is not JSON: the array does not end")
        parts.append(body[at:end])
        if body[end] == ord("]"):
            if not _BLANK.fullmatch(body, end + 1):
                raise BadRequest("the body is not JSON: text follows the array")
            break
        if body[end] != ord(","):
            raise BadRequest("the body is not JSON: a comma is missing between two events")
        at, seen = end + 1, seen + end - at
        if seen > SLICE_BYTES or len(parts) % SLICE_EVENTS == 0:
            yield
            seen = 0
    return parts


def _slices(sizes: list[int]) -> Iterator[tuple[int, int]]:
    """Yield the bounds of slices of the events that one step can read each."""
    ends = list(itertools.accumulate(sizes))
    start = 0
    while start < len(ends):
        most = ends[start] - sizes[start] + SLICE_BYTES
        stop = min(bisect.bisect_right(ends, most, start + 1), start + SLICE_EVENTS)
        yield start, stop
        start = stop


def read_member(body: bytes, name: str, now: int, max_event_bytes: int) -> Steps[NewEvent]:
    """Read a body whose only member `name` is an event, in steps.

    Args:
        body: the JSON text of an object.
        name: the member's name.
        now: microseconds since 1970.
        max_event_bytes: maximum size of the event.

    Raises:
        BadRequest, Invalid, TooLarge: as from `read_one`.
    """
    value = yield from decoded(body)
    form = f'the body must be {{"{name}": {{"type": …, "data": …}}}}'
    if type(value) is not dict:
        raise invalid(form)
    bad = [
        BadField(["body", other], f"unknown field: {form}")
        for other in heapq.nsmallest(MOST, value.keys() - {name})
    ]
    if name not in value:
        raise Invalid.of([*bad, BadField(["body", name], f"missing field: {form}")])
    raw = _members(body)[name]
    check_size(raw, max_event_bytes)
    fields = value[name]
    try:
        if type(fields) is dict and not bad:
            return accept(fields, _payload(fields, raw), now)
    except FieldError:
        pass
    raise Invalid.of([*bad, *_bad(fields, raw, now, (name,), PLAIN_CHECKS)])


def _decode(body: bytes) -> Any:
    try:
        return decode_json(body)
    except JSONError as problem:
        raise BadRequest(str(problem)) from None


def decoded(body: bytes, items: Sequence[Part] | None = None) -> Steps[Any]:
    """Decode JSON, with steps for a large text. `items`: the texts of the items of an array.

    Raises:
        BadRequest: the text is not JSON that Busway accepts.
    """
    large = len(body) > 2 * SLICE_BYTES
    try:
        if large:
            yield
        value = parse_json(body)
        if large:
            yield
        check_json(body, value, None if items is None else map(bytes, items))
        if large:
            yield
    except JSONError as problem:
        raise BadRequest(str(problem)) from None
    return value


def check_size(raw: bytes | Part, limit: int, at: int | None = None) -> None:
    """Check the size of an event.

    Raises:
        TooLarge: it exceeds the limit.
    """
    if len(raw) > limit:
        place = "the event" if at is None else f"event {at} of the array"
        raise TooLarge(f"{place} has {len(raw)} bytes: the limit is {limit} (--max-event-bytes)")


_NO_OBJECT = "an event must be a JSON object"


def _bad(
    fields: Any, raw: bytes | Part, now: int, where: tuple[str | int, ...], checks: Checks
) -> list[BadField]:
    """Return the invalid fields of an event."""
    if type(fields) is not dict:
        return [BadField(["body", *where], _NO_OBJECT)]
    found = checks.faults(fields, now)
    try:
        checks.payload(fields, raw)
    except FieldError as fault:
        found.append(fault.detached())
    return [BadField(["body", *where, fault.field], str(fault)) for fault in found]


def invalid(message: str) -> Invalid:
    """Return the error for a body of the wrong form."""
    return Invalid.of([BadField(["body"], message)])
