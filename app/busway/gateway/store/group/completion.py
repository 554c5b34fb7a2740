"""What becomes of batches that are written: publishers are answered first, then the listeners are told.

So the publishers send their next events while the gateway tells of these (docs/decisions/0003-speed.md).
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import Any

from busway.gateway.errors import Conflict, Unavailable
from busway.gateway.store.group import frames
from busway.gateway.store.group.committed import add_refusal, add_reply
from busway.gateway.store.group.queues import QueuedOperation
from busway.gateway.store.port.commits import Committed, Listener, Waiter
from busway.gateway.store.port.operations import Append, Mark, Retried, Settle

log = logging.getLogger("busway.store")

REPLIES_PER_TURN = 16  # publishers answered in one turn of the loop, at whose end their answers leave
OUTCOMES = (Settle, Append, Mark)


class _Batch:
    """A batch that is written: its operations and the committer's replies, read where they are needed."""

    __slots__ = ("begun", "early", "entries", "head", "refused", "replies")

    def __init__(self, entries: list[QueuedOperation], done: frames.RawDone) -> None:
        self.entries, self.head, self.refused = entries, done.head, done.refused
        self.replies: list[Any] = done.replies
        self.early = [n for n, entry in enumerate(entries) if entry.early and n not in self.refused]
        self.early.reverse()  # taken from the end
        self.begun = False


class Completion:
    """Answers whoever waits for a commit and tells those who listen, one commit after the other.

    Attributes:
        told: the newest result that the listeners know of.
    """

    def __init__(self) -> None:
        self.notified = 0
        self._listeners: list[Listener] = []
        self._written: deque[_Batch] = deque()
        self._scheduled = False

    def listen(self, listener: Listener) -> None:
        """Have `listener` told of every commit, after those who listen already."""
        self._listeners.append(listener)

    def written(self, entries: list[QueuedOperation], done: frames.RawDone) -> None:
        """Answer and tell: in this turn of the loop, and the next ones if there are many to answer."""
        self._written.append(_Batch(entries, done))
        if not self._scheduled:
            self._continue()

    def finish(self) -> None:
        """Answer and tell, now, whatever was written."""
        while self._written:
            _answer(self._written[0], len(self._written[0].early))
            self._notify_oldest()

    def notify(self, committed: Committed) -> None:
        """Tell the listeners; nothing that was written before may still be untold."""
        self.notified = committed.head
        for listener in self._listeners:
            try:
                listener(committed)
            except Exception:
                log.exception("a listener failed on a commit")

    def _continue(self) -> None:
        self._scheduled = False
        while self._written:
            batch = self._written[0]
            if batch.early:
                _answer(batch, REPLIES_PER_TURN)
                batch.begun |= bool(batch.early)
                if batch.begun:  # the last answers, too, leave before all is told
                    self._scheduled = True
                    asyncio.get_running_loop().call_soon(self._continue)
                    return
            self._notify_oldest()

    def _notify_oldest(self) -> None:
        """Tell the listeners of the oldest batch, then who is not answered yet."""
        batch = self._written.popleft()
        replies, refused = batch.replies, batch.refused
        committed = Committed(head=batch.head)
        others: list[tuple[QueuedOperation, Any]] = []
        for index, entry in enumerate(batch.entries):
            reply = replies[index]
            if refused and index in refused:
                others.append((entry, Conflict(f"the store refused it: {refused[index]}")))
                add_refusal(committed, entry)
            elif entry.early:
                add_reply(committed, entry, reply, self.notified)
            else:
                told = frames.decode_reply(type(entry.operation), reply)
                add_reply(committed, entry, told, self.notified)
                if entry.waiter is not None:
                    others.append((entry, told.ids if type(told) is Retried else told))
        self.notify(committed)
        for entry, told in others:
            if isinstance(told, Conflict):
                _refuse(entry, told)
            else:
                _resolve(entry.waiter, told)


def fail(entries: list[QueuedOperation], why: str) -> None:
    """Answer that it is not known what became of these operations."""
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
        except Exception:  # one waiter's fault must not reach those behind it
            log.exception("a commit went well, but who waits for it failed")


def _refuse(entry: QueuedOperation, problem: Exception) -> None:
    if isinstance(entry.operation, OUTCOMES):
        log.error("the outcome of run %d was not stored: %s", entry.operation.run, problem)
    waiter = entry.waiter
    if waiter is None or waiter.done():
        return
    try:
        waiter.set_exception(problem)
    except Exception:
        log.exception("who waits for a commit failed to take why it is not there")
    if isinstance(entry.operation, OUTCOMES) and isinstance(waiter, asyncio.Future):
        waiter.exception()  # nobody need wait for an outcome, so nobody need miss this
