"""Publishes the events of an NDJSON file or stream, one event a line, and goes on after a lost connection.

The lines are sent in requests of a few MiB with one `Producer-Id`. A request whose answer was lost is sent
again: the gateway skips the lines that it has taken.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import msgspec

from busway.client.errors import refusal
from busway.gateway.cli.call import Caller, explained
from busway.gateway.cli.output import note
from busway.gateway.errors import BadSettings, BuswayError

REQUEST_BYTES = 8 << 20  # of whole lines in one request
LONGEST = 1 << 30  # bytes of a line
IDLE = 0.2  # seconds without new bytes after which the lines that are there are sent
SHOWN = 1000  # rejected lines that are named
RETRY_FOR = 60.0  # seconds without progress after which it gives up
FIRST_DELAY, LONGEST_DELAY = 0.25, 4.0  # seconds between tries
_CHUNK = 1 << 16
_AGAIN = {408, 429, 500, 502, 503, 504}

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
Show = Callable[[float, float], None]
"""Called with the number of bytes and of lines that are sent."""


class Summary(msgspec.Struct):
    """What became of the lines. `rejected` names the first ones, each with its number from 1."""

    accepted: int = 0
    duplicates: int = 0
    rejected: list[dict[str, Any]] = []
    rejected_total: int = 0


def read_parts(descriptor: int) -> Iterator[bytes | None]:
    """Yield the bytes of a file or pipe, and None when none have come for a moment."""
    while True:
        if not select.select([descriptor], (), (), IDLE)[0]:
            yield None
            continue
        part = os.read(descriptor, _CHUNK)
        if not part:
            return
        yield part


def whole_lines(parts: Iterable[bytes | None], most: int = REQUEST_BYTES) -> Iterator[bytes]:
    """Yield lines, together at most about `most` bytes unless it is one line, or what there is at a pause.

    Raises:
        BadSettings: a line is too long.
    """
    data, end = bytearray(), 0
    for part in parts:
        if part is not None:
            last = part.rfind(b"\n")
            end = end if last < 0 else len(data) + last + 1
            data += part
            if len(data) < most:
                continue
        if end:
            yield bytes(data[:end])
            del data[:end]
            end = 0
        elif len(data) > LONGEST:
            raise BadSettings(f"a line has more than {LONGEST} bytes: NDJSON has one event a line")
    if data:
        yield bytes(data)


def completed(lines: bytes, defaults: Mapping[str, Any]) -> bytes:
    """Return lines, each an event, with the fields that they do not have."""
    if not defaults:
        return lines
    added = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in defaults.items()}
    return b"".join(_with(added, line) + b"\n" for line in lines.removesuffix(b"\n").split(b"\n"))


def _with(added: dict[str, msgspec.Raw], line: bytes) -> bytes:
    try:
        return msgspec.json.encode({**added, **_members(line)})
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return line  # it is blank, or the gateway says what is wrong with it


class LineUpload:
    """Publishes lines.

    Args:
        caller: sends requests.
        producer: the producer id. Lines that were sent with it before are not sent again.
        defaults: fields of events that do not have them.
        show: called while lines are sent.
        summary: gets what became of them.

    Attributes:
        lines: how many lines the gateway has taken.
        summary: what became of them.
    """

    def __init__(
        self, caller: Caller, producer: str, defaults: Mapping[str, Any], show: Show, summary: Summary
    ) -> None:
        self.lines, self.summary = 0, summary
        self._caller, self._producer, self._show = caller, producer, show
        self._defaults = defaults
        self._first = self._bytes = 0  # lines, and bytes, before the request that is under way
        self._lost = False  # an answer, which had counts
        self._before: dict[str, int] = {}  # what earlier uploads of this producer counted

    def publish(self, parts: Iterable[bytes | None]) -> None:
        """Publish one event for each line.

        Args:
            parts: bytes; None sends what there is.

        Raises:
            BuswayError: the gateway does not answer or takes no events now. It names the line to go on from.
        """
        try:
            self._before = self._counted()
            known = self._before.get("lines", 0)
            if known:
                note(f"{known} lines were taken before: going on with line {known + 1}")
            for lines in whole_lines(parts):
                self._send(self._skip(lines, known))
            if self._lost:
                self._recount()
        except BuswayError as problem:
            place = f"stopped before line {self.lines + 1}"
            if self.lines:
                place += f"; --producer-id {self._producer} goes on there"
            raise type(problem)(f"{problem.detail}; {place}") from None

    def _counted(self) -> dict[str, int]:
        """Return what the gateway knows of the producer."""
        path = f"/v1/producers/{self._producer}"
        if self._caller.send("GET", path).status_code == 404:
            return {}
        found: dict[str, int] = self._caller.call("GET", path)
        return found

    def _recount(self) -> None:
        """Take the counts from the gateway, because answers were lost."""
        found = self._counted()
        for name in ("accepted", "duplicates", "rejected_total"):
            setattr(self.summary, name, found.get(name, 0) - self._before.get(name, 0))

    def _skip(self, lines: bytes, known: int) -> bytes:
        """Return the lines that the gateway has not taken yet."""
        at = 0
        while self._first < known and at < len(lines):
            end = lines.find(b"\n", at)
            at = len(lines) if end < 0 else end + 1
            self._first += 1
        self.lines = max(self.lines, self._first)
        self._bytes += at
        return lines[at:]

    def _send(self, lines: bytes) -> None:
        """Send lines until the gateway has taken them all."""
        if not lines:
            return
        count = lines.count(b"\n") + (not lines.endswith(b"\n"))
        end, delay, told = time.monotonic() + RETRY_FOR, FIRST_DELAY, False
        while (problem := self._try(lines, count)) is not None:
            if problem.lines > self.lines:
                self.lines, end, delay = problem.lines, time.monotonic() + RETRY_FOR, FIRST_DELAY
            if time.monotonic() > end:
                raise BuswayError(problem.detail)
            if not told:
                note(f"{problem.detail}: going on when it is back")
                told = True
            time.sleep(delay)
            delay = min(2 * delay, LONGEST_DELAY)
        self._first += count
        self._bytes += len(lines)
        self.lines = self._first

    def _try(self, lines: bytes, count: int) -> _Interrupted | None:
        """Send lines once. Return None if they are taken, or why to send them again.

        Raises:
            BuswayError: the gateway refuses them.
        """
        headers = {
            "Content-Type": "application/x-ndjson",
            "Producer-Id": self._producer,
            "Producer-Seq": str(self._first),
        }
        body = completed(lines, self._defaults)
        headers["Content-Length"] = str(len(body))
        parts = self._shown(body, count, len(lines))
        try:
            answer = self._caller.send("POST", "/v1/events", body=parts, headers=headers)
        except BuswayError as failure:
            self._lost = True
            return _Interrupted(failure.detail, 0)
        if answer.is_success:
            self._count(answer.json())
            return None
        problem = refusal(self._caller.gateway, answer.status_code, answer.content)
        upload = problem.problem.get("upload")
        if upload is not None:
            self._count(upload)
        if answer.status_code not in _AGAIN:
            raise explained(problem)
        self._lost = True  # the outcome of the last batch may be unknown
        return _Interrupted(explained(problem).detail, upload["lines"] if upload else 0)

    def _shown(self, body: bytes, count: int, size: int) -> Iterator[bytes]:
        """Yield the parts of a body, and show how far they have come."""
        for at in range(0, len(body), _CHUNK):
            share = at / len(body)
            self._show(self._bytes + size * share, self._first + count * share)
            yield body[at : at + _CHUNK]
        self._show(self._bytes + size, self._first + count)

    def _count(self, found: dict[str, Any]) -> None:
        summary = self.summary
        summary.accepted += found["accepted"]
        summary.duplicates += found["duplicates"]
        summary.rejected_total += found["rejected_total"]
        summary.rejected += found["rejected"][: SHOWN - len(summary.rejected)]


class _Interrupted(msgspec.Struct):
    """Why lines are sent again, and how many lines of the producer are taken."""

    detail: str
    lines: int
