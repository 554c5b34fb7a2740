"""The newest results in memory, bounded in bytes, and the pieces of the log that go out as frames."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from busway.domain import cursor
from busway.domain.cursor import Position
from busway.domain.event import Event
from busway.gateway.subscribers import stream
from busway.gateway.subscribers.encoding import Entry
from busway.gateway.subscribers.selection import Predicate

PIECE_BYTES = 64 * 1024
"""The most that the items of a frame have together, unless it is one item.

A quarter of what the contract admits: a slow socket holds one frame, and there may be thousands.
"""

_OVERHEAD = 1500  # bytes that a result without data takes here, encoded item included
_SHARED_NAMES = 4  # most clients name their subscription alike


class Piece:
    """A stretch of the log as one selection sees it: what matches after `after`, up to and with `until`."""

    __slots__ = ("_events", "_frames", "_items", "_joined", "after", "count", "cursor", "size", "until")

    def __init__(self, after: int, until: Position, items: list[bytes], epoch: str) -> None:
        self.after = after
        self.until = until
        self.cursor = cursor.encode(epoch, until)
        self.count = len(items)
        self.size = sum(map(len, items))  # bytes of its items
        self._items = items
        self._joined: str | None = None
        self._frames: dict[str, str] = {}
        self._events: str | None = None

    def frame(self, name: str) -> str:
        """Return the `results` frame for the subscription `name`; equal names share it."""
        frame = self._frames.get(name)
        if frame is None:
            if self._joined is None:
                self._joined = b",".join(self._items).decode()
            quoted = msgspec.json.encode(name).decode()
            frame = f'{{"op":"results","id":{quoted},"items":[{self._joined}],"cursor":"{self.cursor}"}}'
            if len(self._frames) < _SHARED_NAMES:
                self._frames[name] = frame
        return frame

    def events(self) -> str:
        """Return its items as Server-Sent Events; all streams share them."""
        if self._events is None:
            self._events = stream.results(self._items, self.cursor)
        return self._events


def event_bytes(event: Event | None) -> int:
    """Return the bytes to reckon with for an event that is kept for filters."""
    if event is None:
        return 0
    attributes = sum(100 + len(str(value)) for value in event.attributes.values())
    return 500 + attributes + len(event.data or b"")


def cut(after: int, entries: Iterable[Entry], matches: Predicate, epoch: str) -> Piece:
    """Cut one piece off a non-empty stretch of the log that follows `after` without a hole."""
    items: list[bytes] = []
    size = 0
    last: Entry | None = None
    for entry in entries:
        if matches(entry):
            item = entry.item(epoch)
            size += len(item) + 1
            if items and size > PIECE_BYTES:
                break
            items.append(item)
        last = entry
    assert last is not None  # noqa: S101 (an empty stretch is a fault of the caller)
    return Piece(after, last.result.position, items, epoch)


class Ring:
    """Entries by number, the newest `max_bytes` of them, without a hole."""

    def __init__(self, max_bytes: int, head: int) -> None:
        self._max = max_bytes
        self._entries: dict[int, Entry] = {}
        self._event: Event | None = None
        self.first = head + 1
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def append(self, entry: Entry) -> None:
        """Take the next result; the oldest go when there is no room."""
        result = entry.result
        self._entries[result.number] = entry
        size = _OVERHEAD + 2 * len(result.data or b"")
        event = entry.event
        if event is not self._event:
            self._event = event
            size += event_bytes(event)  # results that follow one another share it
        entry.size = size
        self.bytes += size
        while self.bytes > self._max:
            self.bytes -= self._entries.pop(self.first).size
            self.first += 1

    def after(self, number: int, limit: int) -> list[Entry]:
        """Return up to `limit` entries that follow `number`; the first of them must be in the ring."""
        entries = self._entries
        end = min(number + limit, self.first + len(entries) - 1)
        return [entries[n] for n in range(number + 1, end + 1)]

    def position(self, number: int) -> Position | None:
        """Return the place behind result `number`, None if it is not in the ring."""
        entry = self._entries.get(number)
        return entry.result.position if entry else None
