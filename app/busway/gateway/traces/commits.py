"""Makes spans of what is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Any

from busway.domain.event import NewEvent
from busway.domain.run import Run
from busway.gateway.store.port.commits import Commits, CommitStats, Committed, Waiter
from busway.gateway.store.port.operations import (
    Fire,
    Mark,
    Operation,
    Publish,
    Settle,
    Settled,
    StoredEvent,
)
from busway.gateway.store.port.uploads import Uploaded
from busway.gateway.traces.tracer import Tracer


class TracedCommits:
    """Implements `Commits` in front of another one, of which it uses nothing but this port."""

    def __init__(self, commits: Commits, tracer: Tracer) -> None:
        self._commits, self._tracer = commits, tracer
        self._started: dict[int, int] = {}  # when long attempts started, by run
        self._settling: set[int] = set()
        commits.listen(self._committed)
        self.listen, self.match_again = commits.listen, commits.match_again
        self.reached, self.follow, self.drained = commits.reached, commits.follow, commits.drained
        self.decode, self.append = commits.decode, commits.append

    @property
    def epoch(self) -> str:
        """Identifies the log."""
        return self._commits.epoch

    @property
    def stats(self) -> CommitStats:
        """Statistics of commits."""
        return self._commits.stats

    @property
    def log_blocked(self) -> bool:
        """Whether the write-ahead log cannot be emptied."""
        return self._commits.log_blocked

    @property
    def newest(self) -> int:
        """The number of the newest commit."""
        return self._commits.newest

    @property
    def lost(self) -> asyncio.Future[str]:
        """Resolves when the database lacks commits."""
        return self._commits.lost

    @property
    def pid(self) -> int | None:
        """Process id of the committer."""
        return self._commits.pid

    @property
    def backlog(self) -> int:
        """Number of operations of attempts that are not committed."""
        return self._commits.backlog

    @property
    def saturated(self) -> bool:
        """Whether no attempt should start."""
        return self._commits.saturated

    @property
    def obstacle(self) -> str | None:
        """Why nothing can be written."""
        return self._commits.obstacle

    @property
    def healthy(self) -> bool:
        """Whether commits succeed."""
        return self._commits.healthy

    def encode(self, events: list[NewEvent]) -> bytes:
        """Encode a part of the events for `submit`."""
        self._begin(events)
        return self._commits.encode(events)

    def publish(self, operation: Publish) -> asyncio.Future[list[StoredEvent]]:
        """Store events."""
        self._begin(operation.events)
        stored = self._commits.publish(operation)
        stored.add_done_callback(partial(self._stored, operation.events))
        return stored

    def submit(
        self,
        operation: Publish,
        waiter: Waiter[list[StoredEvent]],
        encoded: list[tuple[int, bytes]] | None = None,
    ) -> None:
        """Store events."""
        if encoded is None:
            self._begin(operation.events)
        self._commits.submit(operation, _Stored(waiter, operation.events, self._tracer), encoded)

    def change(self, operation: Operation) -> asyncio.Future[Any]:
        """Apply any other operation."""
        if not isinstance(operation, Publish | Fire):
            return self._commits.change(operation)
        self._begin(operation.events)
        done = self._commits.change(operation)
        done.add_done_callback(partial(self._stored, operation.events))
        return done

    def settle(
        self, operation: Settle, run: Run, handler: str, waiter: Waiter[Settled] | None = None
    ) -> None:
        """Settle an attempt."""
        self._settling.add(run.id)
        then = _Settling(waiter, self._settled, operation, run, handler)
        self._commits.settle(operation, run, handler, then)

    def mark(self, operation: Mark) -> None:
        """Mark a run as running."""
        if operation.run in self._tracer.attempts:
            self._started[operation.run] = operation.started_at
        self._commits.mark(operation)

    def _begin(self, events: Sequence[NewEvent]) -> None:
        for event in events:
            self._tracer.begin(event)

    def _stored(self, events: Sequence[NewEvent], done: asyncio.Future[Any]) -> None:
        if done.cancelled():
            return
        if problem := done.exception():
            self._tracer.refused(events, problem)
            return
        reply = done.result()
        stored = reply.stored if isinstance(reply, Uploaded) else reply
        if isinstance(stored, list):
            self._tracer.published(events, stored)

    def _settled(self, operation: Settle, run: Run, handler: str, reply: Settled | None) -> None:
        self._settling.discard(run.id)
        self._started.pop(run.id, None)
        if reply is not None:
            self._tracer.settled(operation, run, handler, reply)

    def _committed(self, change: Committed) -> None:
        """Make the spans of attempts that were cancelled. It listens first: they are in flight."""
        for run in change.ended:
            attempt = self._tracer.attempts.get(run)
            if attempt is None or run in self._settling or run not in self._started:
                continue
            self._tracer.cancelled(attempt.run, attempt.handler, attempt.number, self._started.pop(run))


class _Stored:
    """Makes the spans of events after their publisher got its answer."""

    def __init__(self, waiter: Waiter[list[StoredEvent]], events: Sequence[NewEvent], tracer: Tracer) -> None:
        self._waiter, self._events, self._tracer = waiter, events, tracer

    def done(self) -> bool:
        """Never done: there are spans to make."""
        return False

    def set_result(self, stored: list[StoredEvent]) -> None:
        """Answer, then make the spans."""
        if not self._waiter.done():
            self._waiter.set_result(stored)
        if isinstance(stored, list):  # else an idempotency key was used before
            self._tracer.published(self._events, stored)

    def set_exception(self, problem: BaseException) -> None:
        """Answer, then make the spans."""
        if not self._waiter.done():
            self._waiter.set_exception(problem)
        self._tracer.refused(self._events, problem)


class _Settling:
    """Makes the spans of an attempt after its outcome was stored."""

    def __init__(
        self, waiter: Waiter[Settled] | None, then: Any, operation: Settle, run: Run, handler: str
    ) -> None:
        self._waiter, self._then, self._about = waiter, then, (operation, run, handler)

    def done(self) -> bool:
        """Never done: there are spans to make."""
        return False

    def set_result(self, reply: Settled) -> None:
        """Answer, then make the spans."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(reply)
        self._then(*self._about, reply)

    def set_exception(self, problem: BaseException) -> None:
        """Answer. What was not stored has no span."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(problem)
        self._then(*self._about, None)
