"""Completion of written batches: publishers get their replies first, then the listeners are notified.

So publishers send their next events while the gateway notifies (docs/decisions/0003-speed.md).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from busway.domain.event import NewEvent
from busway.gateway.errors import Conflict, Unavailable
from busway.gateway.store.group import frames
from busway.gateway.store.group.committed import add_refusal, add_reply
from busway.gateway.store.group.queues import QueuedOperation
from busway.gateway.store.port.commits import Committed, Listener, Outdated, Waiter
from busway.gateway.store.port.operations import Append, Mark, Publish, Retried, Settle

log = logging.getLogger("busway.store")

REPLIES_PER_TURN = 16  # replies to publishers in one turn of the loop; they are sent when it ends
FREED_PER_TURN = 500  # events
OUTCOMES = (Settle, Append, Mark)


class _Batch:
    """A written batch: its operations and the committer's replies, which are decoded on use."""

    __slots__ = ("begun", "early", "entries", "head", "number", "outdated", "refused", "replies")

    def __init__(self, entries: list[QueuedOperation], done: frames.RawDone) -> None:
        self.entries, self.head, self.refused = entries, done.head, done.refused
        self.replies: list[Any] = done.replies
        self.number, self.outdated = done.commit, done.outdated
        self.early = [n for n, entry in enumerate(entries) if entry.early and n not in self.refused]
        if self.outdated:
            self.early = [n for n in self.early if n not in self.outdated]
        self.early.reverse()  # `pop` takes from the end
        self.begun = False


class Completion:
    """Resolves the waiters of each commit and notifies the listeners, in commit order.

    Args:
        match_again: gets publications and outcomes that did nothing, because they were made from older
            handlers than the store has.

    Attributes:
        notified: number of the newest result that listeners were notified of.
    """

    def __init__(self, match_again: Callable[[QueuedOperation], None]) -> None:
        self.notified = 0
        self._match_again = match_again
        self._listeners: list[Listener] = []
        self._written: deque[_Batch] = deque()
        self._scheduled = False

    def listen(self, listener: Listener) -> None:
        """Call `listener` after every commit, after the listeners that were added earlier."""
        self._listeners.append(listener)

    def written(self, entries: list[QueuedOperation], done: frames.RawDone) -> None:
        """Complete a batch, in this turn of the loop or, with many replies, in several."""
        self._written.append(_Batch(entries, done))
        if not self._scheduled:
            self._continue()

    def finish(self) -> None:
        """Complete all written batches now."""
        while self._written:
            _answer(self._written[0], len(self._written[0].early))
            self._notify_oldest()

    def refuse(self, entry: QueuedOperation, why: str) -> None:
        """Refuse an operation that can never be written. All earlier batches must be completed."""
        committed = Committed(head=self.notified)
        add_refusal(committed, entry, why)
        self.notify(committed)
        _refuse(entry, _conflict(why))

    def notify(self, committed: Committed) -> None:
        """Notify the listeners. All earlier batches of this node must be completed."""
        self.notified = max(self.notified, committed.head)
        for listener in self._listeners:
            try:
                listener(committed)
            except Exception:
                log.exception("a listener of commits raised an exception")

    def _continue(self) -> None:
        self._scheduled = False
        while self._written:
            batch = self._written[0]
            if batch.early:
                _answer(batch, REPLIES_PER_TURN)
                batch.begun |= bool(batch.early)
                if batch.begun:  # send the last replies, too, before the listeners run
                    self._scheduled = True
                    asyncio.get_running_loop().call_soon(self._continue)
                    return
            self._notify_oldest()

    def _notify_oldest(self) -> None:
        """Notify the listeners of the oldest batch, then resolve its other waiters."""
        batch = self._written.popleft()
        replies, refused, outdated = batch.replies, batch.refused, batch.outdated
        committed = Committed(head=batch.head, number=batch.number)
        others: list[tuple[QueuedOperation, Any]] = []
        for index, entry in enumerate(batch.entries):
            reply = replies[index]
            if outdated and index in outdated:
                if isinstance(entry.operation, Publish | Settle):
                    self._match_again(entry)
                else:
                    others.append((entry, Outdated()))
            elif refused and index in refused:
                others.append((entry, _conflict(refused[index])))
                add_refusal(committed, entry, refused[index])
            elif entry.early:
                add_reply(committed, entry, reply, self.notified)
                if entry.weight > FREED_PER_TURN and isinstance(entry.operation, Publish):
                    asyncio.get_running_loop().call_soon(_free, [*entry.operation.events])
            else:
                decoded = frames.decode_reply(type(entry.operation), reply)
                add_reply(committed, entry, decoded, self.notified)
                if entry.waiter is not None:
                    others.append((entry, decoded.ids if type(decoded) is Retried else decoded))
        self.notify(committed)
        for entry, outcome in others:
            if isinstance(outcome, Conflict | Outdated):
                _refuse(entry, outcome)
            else:
                _resolve(entry.waiter, outcome)


def _conflict(why: str) -> Conflict:
    return Conflict(f"the store refused the operation: {why}")


def _free(events: list[NewEvent]) -> None:
    """Release events a few at a time: many events with many attributes take long."""
    del events[-FREED_PER_TURN:]
    if events:
        asyncio.get_running_loop().call_soon(_free, events)


def renew(entry: QueuedOperation, matched: Publish | Settle) -> None:
    """Change an operation, before it is sent again, to one whose events were matched again."""
    entry.body = frames.encode(matched)
    operation = entry.operation
    if isinstance(operation, Settle) and isinstance(matched, Settle):
        operation.published, operation.rules = matched.published, matched.rules
    elif isinstance(operation, Publish) and isinstance(matched, Publish):
        operation.rules = matched.rules
        for event, new in zip(operation.events, matched.events, strict=True):
            event.handlers = new.handlers
            if new.handlers:  # it may not have needed them before
                event.attributes, event.data = new.attributes, new.data


def fail(entries: list[QueuedOperation], why: str) -> None:
    """Fail these operations, whose outcome is unknown."""
    for entry in entries:
        _refuse(entry, Unavailable(why))


def _answer(batch: _Batch, most: int) -> None:
    early, replies = batch.early, batch.replies
    for _ in range(min(most, len(early))):
        index = early.pop()
        replies[index] = reply = frames.decode_stored_events(replies[index])
        _resolve(batch.entries[index].waiter, reply)


def _resolve(waiter: Waiter[Any] | None, reply: Any) -> None:
    if waiter is not None and not waiter.done():
        try:
            waiter.set_result(reply)
        except Exception:  # one faulty waiter must not affect the others
            log.exception("a waiter of a successful commit raised an exception")


def _refuse(entry: QueuedOperation, problem: Exception) -> None:
    refused = isinstance(problem, Conflict)  # then the attempt's failure says so
    if isinstance(entry.operation, OUTCOMES) and not (refused and isinstance(entry.operation, Settle)):
        log.error("the outcome of run %d was not stored: %s", entry.operation.run, problem)
    waiter = entry.waiter
    if waiter is None or waiter.done():
        return
    try:
        waiter.set_exception(problem)
    except Exception:
        log.exception("a waiter of a failed commit raised an exception")
    if isinstance(entry.operation, OUTCOMES) and isinstance(waiter, asyncio.Future):
        waiter.exception()  # marks it as retrieved, because nobody has to await an outcome
