"""Lines of NDJSON: splits a body as it arrives, and reads the events of a few lines at a time."""

from __future__ import annotations

from typing import Any

import msgspec

from busway.domain.event import NewEvent
from busway.domain.event_fields import accept
from busway.domain.handler import FieldError
from busway.domain.text import JSONError, check_json
from busway.gateway.errors import BuswayError, Invalid
from busway.gateway.ingest.reading import SLICE_BYTES, SLICE_EVENTS, Checks, accept_all, read_one
from busway.gateway.turns import Steps

_BLANK = b" \t\r"
SINGLY = 8_192  # bytes of lines that one step reads one by one: to say what is wrong takes long
_EACH = 64  # what a line counts besides its bytes
_NO_OBJECT = "an event must be a JSON object: NDJSON has one event a line"
_decode = msgspec.json.Decoder().decode
Line = bytes | int
"""A line without its end. A number: it was too large to be kept, and has so many bytes."""


class Splitter:
    """Splits a body into lines. It keeps what is not a whole line yet, at most `longest` bytes of it.

    A line ends with LF or CR LF, the last one also with the body.

    Args:
        longest: bytes of the longest line that is kept.

    Attributes:
        size: bytes that are kept.
    """

    def __init__(self, longest: int) -> None:
        self._longest = longest + 1  # with a CR
        self._data = bytearray()
        self._searched = 0  # bytes of it that have no line end
        self._dropped = 0  # bytes of the line that is too large
        self._ended = False

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return len(self._data)

    def add(self, part: bytes) -> None:
        """Add the next bytes of the body."""
        self._data += part

    def end(self) -> None:
        """The body has ended: what is left is a line."""
        self._ended = True

    def clear(self) -> None:
        """Drop everything."""
        self._data, self._ended = bytearray(), True

    def take(self) -> list[Line]:
        """Return the next lines, as many as one step can read. None are returned if no line is complete."""
        data = self._data
        end = data.rfind(b"\n", self._searched, SLICE_BYTES)
        if end < 0:
            end = data.find(b"\n", max(self._searched, SLICE_BYTES))
        if end < 0:
            return self._take_rest()
        if self._dropped:
            return self._end_dropped(data.index(b"\n"))
        *lines, rest = bytes(data[: end + 1]).split(b"\n", SLICE_EVENTS)
        del data[: end + 1 - len(rest)]
        self._searched = 0
        return [*lines]

    def _take_rest(self) -> list[Line]:
        data = self._data
        if self._dropped or len(data) > self._longest:
            self._dropped += len(data)
            data.clear()
        self._searched = len(data)
        if not self._ended or not (data or self._dropped):
            return []
        line: Line = self._dropped or bytes(data)
        data.clear()
        self._searched = self._dropped = 0
        return [line]

    def _end_dropped(self, end: int) -> list[Line]:
        size, self._dropped = self._dropped + end, 0
        del self._data[: end + 1]
        self._searched = 0
        return [size]


def read_lines(
    lines: list[Line], now: int, max_event_bytes: int
) -> Steps[tuple[list[tuple[int, NewEvent]], list[tuple[int, str]]]]:
    """Read events, one a line, in steps. Blank lines are skipped.

    Returns:
        The events, and why other lines are refused, each with the index of its line.
    """
    found = [(at, line.strip(_BLANK) if type(line) is bytes else line) for at, line in enumerate(lines)]
    kept = [(at, line) for at, line in found if line]
    texts = [line for _, line in kept if type(line) is bytes]
    if len(texts) == len(kept):
        events = _read_all(texts, now, max_event_bytes)
        if events is not None:
            return [(at, event) for (at, _), event in zip(kept, events, strict=True)], []
    accepted: list[tuple[int, NewEvent]] = []
    refused: list[tuple[int, str]] = []
    spent = 0
    for at, line in kept:
        if spent > SINGLY:
            yield
            spent = 0
        spent += _EACH + (len(line) if isinstance(line, bytes) else 0)
        try:
            accepted.append((at, (yield from _read_line(line, now, max_event_bytes))))
        except BuswayError as problem:
            refused.append((at, problem.detail))
    return accepted, refused


def _read_all(texts: list[bytes], now: int, max_event_bytes: int) -> list[NewEvent] | None:
    """Read lines at once: the usual case. Return None if one is large or cannot be accepted."""
    text = b"\n".join(texts)
    if len(text) > SLICE_BYTES or max(map(len, texts), default=0) > max_event_bytes:
        return None
    try:
        values = [*map(_decode, texts)]
        check_json(text, values, texts)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, JSONError):
        return None
    return accept_all(values, texts, now)


def _first_fault(fields: dict[str, Any], now: int) -> list[FieldError]:
    """Return what is wrong with the first invalid member: to look for all takes long, and one is shown."""
    try:
        accept(fields, None, now)
    except FieldError as fault:
        return [fault.detached()]
    return []


_CHECKS = Checks(accept, _first_fault)


def _read_line(line: Line, now: int, max_event_bytes: int) -> Steps[NewEvent]:
    """Read one line.

    Raises:
        BuswayError: it is refused. `detail` says why.
    """
    if isinstance(line, int):
        raise BuswayError(f"the line has {line} bytes: the limit is {max_event_bytes} (--max-event-bytes)")
    if line.startswith(b"["):
        raise BuswayError(_NO_OBJECT)
    try:
        (event,), _ = yield from read_one(line, now, max_event_bytes, None, _CHECKS)
    except Invalid as problem:
        raise BuswayError(problem.detail if line.startswith(b"{") else _NO_OBJECT) from None
    except BuswayError as problem:
        raise BuswayError(problem.detail.replace("the body ", "the line ", 1)) from None
    return event
