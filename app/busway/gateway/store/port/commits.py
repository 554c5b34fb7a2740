"""The port for writes: the gateway submits operations and receives what each commit changed.

The store keeps one log of events and one of results. Each is numbered from 1, in commit order, without holes.
A commit is complete when it is synced to disk. Nobody is notified earlier.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar

import msgspec

from busway.domain.cursor import Position
from busway.domain.event import Event, NewEvent
from busway.domain.handler import Handler
from busway.domain.histogram import SIZES, Histogram
from busway.domain.result import Result
from busway.domain.run import Run
from busway.gateway.store.port.operations import (
    Append,
    Mark,
    Operation,
    Publish,
    Settle,
    Settled,
    StoredEvent,
)


class Committed(msgspec.Struct, kw_only=True):
    """What one commit changed. Every listener receives it, in one turn of the event loop.

    Attributes:
        ended: runs whose attempt ended or that were cancelled. Release these before adding `runs`.
        runs: runs that may start, now or when due: first new ones, then those that wait again.
        results: results of this commit whose content this process has, each with its event, in log order.
        handlers: handlers that were created, changed or deleted, as they are now.
        head: number of the newest result. If `results` do not reach from the previous head to this one,
            read the missing results from the store.
        floor: the new floor of the result log, if results were pruned.
        refused: outcomes and partials that can never be stored, because the store refuses their content, each
            with the reason. Nothing of them is stored, so the attempts are still in flight.
        rescan: the store may hold waiting runs that no commit reported, because the committer died or
            another process wrote. Read the waiting runs from the store.
        foreign: another node made the commit. Its `ended` may be out of date here, because a later commit of
            this node was applied before.
        unread: runs that it created. Read them from the store, and those that ended and wait again.
        rules: the version of the handlers and keys that a node has with this commit, 0 if it is the same.
        durables: durable names that subscriptions of another node took over, each with its new generation.
        node: the node that made a foreign commit.
        lingering: those of `ended` whose attempt may still run on the node that has it.
        replays: whether another node created or cancelled a replay.
        stopped: runs whose attempt lingered or was cancelled on another node, and does not run any more.
        final: its `ended` of another node do not wait again, and are not out of date.
        number: of the commit, 0 if commits have none. Own ones may come before older ones of other nodes.
    """

    runs: list[Run] = []
    ended: list[int] = []
    results: list[tuple[Result, Event]] = []
    handlers: list[Handler] = []
    head: int
    floor: Position | None = None
    refused: list[tuple[Settle | Append, str]] = []
    rescan: bool = False
    foreign: bool = False
    unread: Sequence[int] = ()
    rules: int = 0
    durables: Sequence[tuple[str, int]] = ()
    node: int = 0
    lingering: Sequence[int] = ()
    replays: bool = False
    stopped: Sequence[int] = ()
    final: bool = False
    number: int = 0


class Outdated(Exception):
    """The operation was made from older handlers than the store has. It did nothing."""


class CommitStats:
    """Statistics since the gateway started: operations and seconds per commit, and failed commits.

    `waits`: seconds until a commit could begin, because other nodes may write. They are part of `seconds`.
    Empty if there can be no other nodes.
    """

    def __init__(self) -> None:
        self.sizes = Histogram(SIZES)
        self.seconds, self.waits = Histogram(), Histogram()
        self.failures = 0


Listener = Callable[[Committed], None]
Again = Callable[[Publish | Settle], None]
"""Takes an operation whose events were matched again."""
Reply_contra = TypeVar("Reply_contra", contravariant=True)


class Waiter(Protocol[Reply_contra]):
    """Receives the reply to one operation. A future is one; others need no turn of the event loop."""

    def done(self) -> bool:
        """Return whether it has a reply already or no longer wants one."""

    def set_result(self, result: Reply_contra, /) -> None:
        """Receive the reply, after the commit was synced."""

    def set_exception(self, exception: BaseException, /) -> None:
        """Receive the reason why there is no reply."""


class Commits(Protocol):
    """Writes to the store. Operations that arrive during a commit are part of the next one.

    Futures resolve after the commit was synced and all listeners were notified. If the outcome of a batch
    is unknown (disk full, committer killed), `publish` and `change` fail with `Unavailable`. So they do at
    once while nothing can be written (no committer, no database file).
    `settle`, `append` and `mark` are retried without limit until the outcome is known. If the store refuses
    what one of them contains, listeners get it in `refused`.
    """

    @property
    def epoch(self) -> str:
        """Identifies the log of results in cursors."""

    @property
    def stats(self) -> CommitStats:
        """Statistics since the gateway started."""

    @property
    def log_blocked(self) -> bool:
        """Whether a reader keeps the write-ahead log from being emptied, so that it grows."""

    @property
    def newest(self) -> int:
        """The number of the newest commit of this node, 0 if there is only one node."""

    @property
    def lost(self) -> asyncio.Future[str]:
        """Resolves with the reason when the database is not as this gateway left it. The gateway must end."""

    def listen(self, listener: Listener) -> None:
        """Call `listener` after every commit. Listeners are called in the order in which they were added."""

    def match_again(self, listener: Callable[[Publish | Settle, Again], None]) -> None:
        """Set the function that gets operations that did nothing, because the store has newer handlers.

        It must match their events with these, and then call the second argument.
        """

    async def reached(self, number: int) -> None:
        """Wait until the listeners know of this commit of this node, unless its reply was lost."""

    def follow(self, committed: Committed) -> None:
        """Notify the listeners of what another node committed."""

    def publish(self, operation: Publish) -> asyncio.Future[list[StoredEvent]]:
        """Store events. Listeners receive the new runs as `runs`.

        Raises:
            Unavailable: too much is queued already, or nothing can be written now. It is raised at once and
                has `retry_after`.
        """

    def encode(self, events: list[NewEvent]) -> bytes:
        """Encode a part of the events for `submit`, fewer than 65,536, so that it takes not long at once."""

    def decode(self, encoded: bytes) -> list[NewEvent]:
        """Return the events that `encode` has encoded."""

    def submit(
        self,
        operation: Publish,
        waiter: Waiter[list[StoredEvent]],
        encoded: list[tuple[int, bytes]] | None = None,
    ) -> None:
        """Store events as `publish` does. `waiter` gets the reply after the sync, before the listeners.

        `encoded`: what `encode` returned for all parts of the events, each with its number of events.
        """

    def settle(
        self, operation: Settle, run: Run, handler: str, waiter: Waiter[Settled] | None = None
    ) -> None:
        """Settle an attempt of `run` for the handler of that name. `waiter` gets the reply.

        If the run waits again, the listeners get it in `runs`: a copy of `run` with the fields that the
        operation changes.
        """

    def append(self, operation: Append, run: Run, handler: str) -> asyncio.Future[int]:
        """Append a partial result of `run`."""

    def mark(self, operation: Mark) -> None:
        """Mark a run as running."""

    def change(self, operation: Operation) -> asyncio.Future[Any]:
        """Apply any other operation. The future returns its reply.

        An `Upload` may be refused at once, as by `publish`.

        Raises (from the future):
            Conflict: an integrity rule refused it.
            Outdated: it is a `SaveHandler` that was made from older handlers than the store has.
            Unavailable: the outcome is unknown.
        """

    async def drained(self) -> None:
        """Wait until every `settle`, `append` and `mark` so far is committed and the listeners were notified.

        It also returns when a commit fails or the committer is gone.
        """

    @property
    def pid(self) -> int | None:
        """Process id of the committer, None while there is none."""

    @property
    def backlog(self) -> int:
        """Number of `settle`, `append` and `mark` operations that are not committed yet."""

    @property
    def saturated(self) -> bool:
        """Whether so many of these operations wait that no attempt should start until some are committed."""

    @property
    def obstacle(self) -> str | None:
        """Why nothing can be written now, or why the last commit failed. None if commits succeed."""

    @property
    def healthy(self) -> bool:
        """Whether the last commit succeeded and a committer is running."""
