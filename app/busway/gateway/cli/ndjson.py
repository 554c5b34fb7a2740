"""Publishes the events of an NDJSON file or stream, one event a line, in batches."""

from __future__ import annotations

import os
import select
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import msgspec

from busway.client.aio import MAX_BATCH
from busway.client.errors import refusal
from busway.gateway.cli.call import Caller, explained
from busway.gateway.errors import BuswayError

BATCH_BYTES = 4 << 20
IDLE = 0.2  # seconds without a new line after which a batch is sent
SHOWN = 1000  # rejected lines that are named
_CHUNK = 1 << 16
_LINE_REFUSED = {400, 413, 422}

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class Summary(msgspec.Struct):
    """What became of the lines. `rejected` names the first ones, each with its number from 1."""

    accepted: int = 0
    duplicates: int = 0
    rejected: list[dict[str, Any]] = []
    rejected_total: int = 0

    def reject(self, line: int, detail: str) -> None:
        """Count a line that is not stored."""
        self.rejected_total += 1
        if len(self.rejected) < SHOWN:
            self.rejected.append({"line": line, "detail": detail})


def read_lines(descriptor: int) -> Iterator[bytes | None]:
    """Yield the lines of a file or pipe, and None when no new line has come for a moment."""
    parts: list[bytes] = []
    while True:
        if not select.select([descriptor], (), (), IDLE)[0]:
            yield None
            continue
        chunk = os.read(descriptor, _CHUNK)
        if not chunk:
            break
        first, *more = chunk.split(b"\n")
        parts.append(first)
        if more:
            yield b"".join(parts)
            yield from more[:-1]
            parts = [more[-1]]
    yield b"".join(parts)


def publish_lines(
    caller: Caller, lines: Iterable[bytes | None], defaults: Mapping[str, Any], summary: Summary
) -> None:
    """Publish one event for each line, and count them in `summary`.

    Args:
        caller: sends requests.
        lines: JSON objects; None sends what there is.
        defaults: fields of events that do not have them.
        summary: counts the lines.

    Raises:
        BuswayError: the gateway does not answer or takes no events now. It names the line to go on from.
    """
    added = {name: msgspec.Raw(msgspec.json.encode(value)) for name, value in defaults.items()}
    batch: list[tuple[int, bytes]] = []
    size = 0
    for number, line in _numbered(lines):
        if line is not None:
            event = _event(number, line, added, summary)
            if event is None:
                continue
            batch.append((number, event))
            size += len(event) + 1
        if batch and (line is None or len(batch) == MAX_BATCH or size >= BATCH_BYTES):
            _send(caller, batch, summary)
            batch, size = [], 0
    if batch:
        _send(caller, batch, summary)


def _numbered(lines: Iterable[bytes | None]) -> Iterator[tuple[int, bytes | None]]:
    number = 0
    for line in lines:
        number += line is not None
        text = line.strip() if line is not None else None
        if text is None or text:
            yield number, text


def _event(number: int, line: bytes, added: Mapping[str, msgspec.Raw], summary: Summary) -> bytes | None:
    """Return the JSON text of an event. None if the line is rejected."""
    try:
        members = _members(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as problem:
        what = (
            "an event must be a JSON object" if isinstance(problem, msgspec.ValidationError) else "not JSON"
        )
        summary.reject(number, f"{what}: {problem}")
        return None
    return msgspec.json.encode({**added, **members}) if added else line


def _send(caller: Caller, batch: list[tuple[int, bytes]], summary: Summary) -> None:
    """Publish events. Those that the gateway refuses are rejected, the others are sent again without them."""
    while batch:
        body = b"[%b]" % b",".join(event for _, event in batch)
        try:
            answer = caller.send("POST", "/v1/events", body=body)
            if answer.is_success:
                duplicates = sum(receipt["duplicate"] for receipt in answer.json()["items"])
                summary.duplicates += duplicates
                summary.accepted += len(batch) - duplicates
                return
            problem = refusal(caller.gateway, answer.status_code, answer.content)
            if answer.status_code not in _LINE_REFUSED:
                raise explained(problem)
        except BuswayError as failure:
            raise BuswayError(f"{failure.detail}; stopped before line {batch[0][0]}") from None
        wrong = _wrong(problem.problem)
        if wrong:
            for index, messages in wrong.items():
                summary.reject(batch[index][0], "; ".join(messages))
            batch = [each for index, each in enumerate(batch) if index not in wrong]
        elif len(batch) == 1:
            summary.reject(batch[0][0], explained(problem).detail)
            return
        else:
            half = len(batch) // 2
            _send(caller, batch[:half], summary)
            batch = batch[half:]


def _wrong(problem: Mapping[str, Any]) -> dict[int, list[str]]:
    """Return what is wrong with each event of a batch, by its place."""
    found: dict[int, list[str]] = {}
    for each in problem.get("errors", ()):
        if len(each["loc"]) > 1 and isinstance(each["loc"][1], int):
            found.setdefault(each["loc"][1], []).append(each["msg"])
    return found
