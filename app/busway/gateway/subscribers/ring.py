"""The newest results in memory, limited in bytes, and the pieces of the log that are sent as frames."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from busway.domain import cursor
from busway.domain.cursor import Position
from busway.domain.event import Event
from busway.gateway.subscribers import stream
from busway.gateway.subscribers.encoding import Entry
from busway.gateway.subscribers.selection import Predicate, Selection

PIECE_BYTES = 64 * 1024
"""The maximum size of the items of a frame, in bytes, unless it is one item.

A quarter of the limit in the contract: each slow socket holds a frame in memory, and there may be thousands.
"""

_OVERHEAD = 1500  # bytes of memory for a result without data, including its encoded item
_ALL = Selection()
_SHARED_NAMES = 4  # most clients use the same subscription id


class Piece:
    """A range of the log for one selection: the matching results after `after` up to `until`, inclusive."""

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

    @property
    def items(self) -> list[bytes]:
        """Its encoded results."""
        return self._items

    def frame(self, name: str) -> str:
        """Return the `results` frame for the subscription `name`. Subscriptions of one name share it."""
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
        """Return its items as Server-Sent Events. All streams share them."""
        if self._events is None:
            self._events = stream.results(self._items, self.cursor)
        return self._events


def event_bytes(event: Event | None) -> int:
    """Return an estimate of the memory that an event takes, in bytes."""
    if event is None:
        return 0
    attributes = sum(100 + len(str(value)) for value in event.attributes.values())
    return 500 + attributes + len(event.data or b"")


def cut(
    after: int, entries: Iterable[Entry], matches: Predicate, epoch: str, selection: Selection = _ALL
) -> Piece:
    """Return one piece of a non-empty range of the log that follows `after` without a gap.

    `matches` says which results the selection has, `selection` which form they have.
    """
    items: list[bytes] = []
    size = 0
    last: Entry | None = None
    for entry in entries:
        if matches(entry):
            item = entry.cloudevent(epoch) if selection.cloudevents else entry.item(epoch)
            size += len(item) + 1
            if items and size > PIECE_BYTES:
                break
            items.append(item)
        last = entry
    assert last is not None  # noqa: S101 (an empty range is a bug in the caller)
    return Piece(after, last.result.position, items, epoch)


class Ring:
    """The newest entries by number, without a gap, at most `max_bytes`."""

    def __init__(self, max_bytes: int, head: int) -> None:
        self._max = max_bytes
        self._entries: dict[int, Entry] = {}
        self._event: Event | None = None
        self.first = head + 1
        self.bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def append(self, entry: Entry) -> None:
        """Add the next result and drop the oldest ones over the limit."""
        result = entry.result
        self._entries[result.number] = entry
        size = _OVERHEAD + 2 * len(result.data or b"")
        event = entry.event
        if event is not self._event:
            self._event = event
            size += event_bytes(event)  # consecutive results of one event share it
        entry.size = size
        self.bytes += size
        while self.bytes > self._max:
            self.bytes -= self._entries.pop(self.first).size
            self.first += 1

    def after(self, number: int, limit: int) -> list[Entry]:
        """Return up to `limit` entries after `number`. The first of them must be in the ring."""
        entries = self._entries
        end = min(number + limit, self.first + len(entries) - 1)
        return [entries[n] for n in range(number + 1, end + 1)]

    def position(self, number: int) -> Position | None:
        """Return the position of result `number`, or None if it is not in the ring."""
        entry = self._entries.get(number)
        return entry.result.position if entry else None
