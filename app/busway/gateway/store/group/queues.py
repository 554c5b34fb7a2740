"""What waits for the next commit: outcomes first and without bound, publishing behind them and bounded."""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from busway.domain.run import Run
from busway.gateway.errors import Unavailable
from busway.gateway.store.port.commits import Waiter
from busway.gateway.store.port.operations import Operation, Publish

BATCH_EVENTS = 2_000
BATCH_BYTES = 8 << 20
QUEUE_EVENTS = 20_000
QUEUE_BYTES = 64 << 20


class QueuedOperation(msgspec.Struct, eq=False):
    """An operation on its way: encoded once, because it may be sent more than once.

    `weight` is in events. `run` and `handler` (its name) come with the outcomes of attempts. `early`: it
    publishes, and its waiter is answered before the listeners are told.
    """

    operation: Operation
    body: bytes
    waiter: Waiter[Any] | None
    weight: int = 1
    run: Run | None = None
    handler: str = ""
    early: bool = False


class OperationQueue:
    """A queue that knows its events and bytes."""

    __slots__ = ("bytes", "entries", "events")

    def __init__(self) -> None:
        self.entries: deque[QueuedOperation] = deque()
        self.events = self.bytes = 0

    def __len__(self) -> int:
        return len(self.entries)

    def add(self, entry: QueuedOperation) -> None:
        """Queue an entry."""
        self.entries.append(entry)
        self.events += entry.weight
        self.bytes += len(entry.body)

    def put_back(self, entries: list[QueuedOperation]) -> None:
        """Put entries before all others."""
        self.entries.extendleft(reversed(entries))
        self.events += sum(entry.weight for entry in entries)
        self.bytes += sum(len(entry.body) for entry in entries)

    def take(self) -> list[QueuedOperation]:
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
    """Both lines. A batch takes its share of each, so that neither waits for the other to end.

    `outcomes`: what attempts brought, which is never refused. `changes`: all else.
    """

    __slots__ = ("changes", "outcomes")

    def __init__(self) -> None:
        self.outcomes, self.changes = OperationQueue(), OperationQueue()

    def __len__(self) -> int:
        return len(self.outcomes.entries) + len(self.changes.entries)

    def add_change(self, entry: QueuedOperation) -> None:
        """Queue anything but an outcome.

        Raises:
            Unavailable: too many events wait already.
        """
        line = self.changes
        events, size = line.events + entry.weight, line.bytes + len(entry.body)
        full = events > QUEUE_EVENTS or size > QUEUE_BYTES
        if full and line.entries and isinstance(entry.operation, Publish):
            raise Unavailable("too many events wait to be stored: send them again in a second")
        line.entries.append(entry)
        line.events, line.bytes = events, size

    def take(self) -> list[QueuedOperation]:
        """Take the next batch, outcomes first."""
        return self.outcomes.take() + self.changes.take()

    def clear(self) -> list[QueuedOperation]:
        """Give all up."""
        given_up = [*self.outcomes.entries, *self.changes.entries]
        self.outcomes, self.changes = OperationQueue(), OperationQueue()
        return given_up
