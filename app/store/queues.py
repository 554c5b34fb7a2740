"""What waits for the next commit: outcomes first and without bound, publishing behind them and bounded."""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from app.domain.run import Run
from app.errors import Unavailable
from app.store.base import Waiter
from app.store.operations import Operation, Publish

BATCH_EVENTS = 2_000
BATCH_BYTES = 8 << 20
QUEUE_EVENTS = 20_000
QUEUE_BYTES = 64 << 20


class Entry(msgspec.Struct, eq=False):
    """An operation on its way: encoded once, because it may be sent more than once.

    `weight` is in events. `run` and `handler` (its name) come with the outcomes of attempts. `early`: its
    waiter is answered before the listeners are told.
    """

    operation: Operation
    body: bytes
    waiter: Waiter[Any] | None
    weight: int = 1
    run: Run | None = None
    handler: str = ""
    early: bool = False


class _Line:
    """A queue that knows its events and bytes."""

    def __init__(self) -> None:
        self.entries: deque[Entry] = deque()
        self.events = self.bytes = 0

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.events += entry.weight
        self.bytes += len(entry.body)

    def put_back(self, entries: list[Entry]) -> None:
        self.entries.extendleft(reversed(entries))
        self.events += sum(entry.weight for entry in entries)
        self.bytes += sum(len(entry.body) for entry in entries)

    def take(self) -> list[Entry]:
        """Take what one batch may hold, but always one if there is any."""
        if self.events <= BATCH_EVENTS and self.bytes <= BATCH_BYTES:
            taken = list(self.entries)
            self.entries.clear()
            self.events = self.bytes = 0
            return taken
        taken = []
        events = size = 0
        while self.entries:
            entry = self.entries[0]
            events += entry.weight
            size += len(entry.body)
            if taken and (events > BATCH_EVENTS or size > BATCH_BYTES):
                break
            taken.append(self.entries.popleft())
            self.events -= entry.weight
            self.bytes -= len(entry.body)
        return taken


class Queues:
    """Both lines. A batch takes its share of each, so that neither waits for the other to end."""

    def __init__(self) -> None:
        self._outcomes, self._changes = _Line(), _Line()

    def __len__(self) -> int:
        return len(self._outcomes.entries) + len(self._changes.entries)

    @property
    def outcomes(self) -> int:
        """How many outcomes wait."""
        return len(self._outcomes.entries)

    def add_outcome(self, entry: Entry) -> None:
        """Queue what an attempt brought; never refused."""
        self._outcomes.add(entry)

    def add_change(self, entry: Entry) -> None:
        """Queue anything else.

        Raises:
            Unavailable: too many events wait already.
        """
        line = self._changes
        full = line.events + entry.weight > QUEUE_EVENTS or line.bytes + len(entry.body) > QUEUE_BYTES
        if full and line.entries and isinstance(entry.operation, Publish):
            raise Unavailable("too many events wait to be stored: send them again in a second")
        line.add(entry)

    def take(self) -> list[Entry]:
        """Take the next batch, outcomes first."""
        return self._outcomes.take() + self._changes.take()

    def put_back(self, outcomes: list[Entry]) -> None:
        """Put outcomes whose commit is unknown before all others."""
        self._outcomes.put_back(outcomes)

    def clear(self) -> list[Entry]:
        """Give all up."""
        given_up = [*self._outcomes.entries, *self._changes.entries]
        self._outcomes, self._changes = _Line(), _Line()
        return given_up
