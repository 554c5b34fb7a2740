"""Operations that wait for the next commit: outcomes of attempts first, then the others.

The queue for outcomes has no limit. Publishing is refused when the other queue is full.
"""

from __future__ import annotations

from collections import deque
from typing import Any

import msgspec

from busway.domain.run import Run
from busway.gateway.errors import Overloaded
from busway.gateway.store.port.commits import Waiter
from busway.gateway.store.port.operations import Operation, Publish

BATCH_EVENTS = 2_000
BATCH_BYTES = 8 << 20
BACKLOG_OPERATIONS = 5_000
BACKLOG_BYTES = 32 << 20
QUEUE_EVENTS = 20_000
QUEUE_BYTES = 64 << 20


class QueuedOperation(msgspec.Struct, eq=False):
    """A queued operation. It is encoded once, because it may be sent more than once.

    `weight` is in events. Outcomes of attempts have `run` and `handler` (its name). `early`: the waiter gets
    its reply before the listeners are notified (publishing only).
    """

    operation: Operation
    body: bytes
    waiter: Waiter[Any] | None
    weight: int = 1
    run: Run | None = None
    handler: str = ""
    early: bool = False


class OperationQueue:
    """A queue that counts its events and bytes."""

    __slots__ = ("bytes", "entries", "events")

    def __init__(self) -> None:
        self.entries: deque[QueuedOperation] = deque()
        self.events = self.bytes = 0

    def __len__(self) -> int:
        return len(self.entries)

    def add(self, entry: QueuedOperation) -> None:
        """Append an operation."""
        self.entries.append(entry)
        self.events += entry.weight
        self.bytes += len(entry.body)

    def put_back(self, entries: list[QueuedOperation]) -> None:
        """Insert operations at the front."""
        self.entries.extendleft(reversed(entries))
        self.events += sum(entry.weight for entry in entries)
        self.bytes += sum(len(entry.body) for entry in entries)

    def take_one(self) -> list[QueuedOperation]:
        """Remove and return the first operation."""
        entry = self.entries.popleft()
        self.events -= entry.weight
        self.bytes -= len(entry.body)
        return [entry]

    def take(self) -> list[QueuedOperation]:
        """Remove and return the operations of one batch: at least one, if there is any."""
        if not self.entries:
            return []
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
    """Both queues. A batch takes operations from each, so that neither blocks the other.

    `outcomes`: outcomes of attempts, never refused. `changes`: all other operations.
    """

    __slots__ = ("changes", "outcomes")

    def __init__(self) -> None:
        self.outcomes, self.changes = OperationQueue(), OperationQueue()

    def __len__(self) -> int:
        return len(self.outcomes.entries) + len(self.changes.entries)

    def add_change(self, entry: QueuedOperation) -> None:
        """Append any operation but an outcome.

        Raises:
            Overloaded: too many events are queued.
        """
        queue = self.changes
        events, size = queue.events + entry.weight, queue.bytes + len(entry.body)
        full = events > QUEUE_EVENTS or size > QUEUE_BYTES
        if full and queue.entries and isinstance(entry.operation, Publish):
            raise Overloaded("too many events are waiting to be stored: send these again in a second")
        queue.entries.append(entry)
        queue.events, queue.bytes = events, size

    def take(self, *, alone: bool = False) -> tuple[list[QueuedOperation], list[QueuedOperation]]:
        """Remove and return the outcomes and the changes of the next batch. `alone`: only one outcome."""
        if alone and self.outcomes:
            return self.outcomes.take_one(), []
        return self.outcomes.take(), self.changes.take()

    def clear_changes(self) -> list[QueuedOperation]:
        """Remove and return all operations but the outcomes."""
        removed = [*self.changes.entries]
        self.changes = OperationQueue()
        return removed

    def clear(self) -> list[QueuedOperation]:
        """Remove and return all operations."""
        removed = [*self.outcomes.entries, *self.changes.entries]
        self.outcomes, self.changes = OperationQueue(), OperationQueue()
        return removed
