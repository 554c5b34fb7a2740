"""The port to the store's writes: operations go in, and what each commit changed comes back.

There is one log of events and one of results, each numbered from 1 without holes in commit order.
A commit is complete when it is synced to disk; only then is anybody notified of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import msgspec

from busway.domain.cursor import Position
from busway.domain.event import Event
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
    """What one commit changed, told to every listener in commit order, within one tick of the loop.

    `ended`: runs whose attempt is over, or that were cancelled; whoever holds them lets go first.
    `runs`: those that may start, now or when due: new ones, then those that wait again.
    `results`: the results of this commit that this process knows by content, each with its event, in
    log order. `head` is the number of the newest result; where the results do not reach from the last head
    to it, read the rest from the store. `floor`: where the log begins now, if results were pruned.
    `rescan`: there may be runs in the store that were told to nobody (the committer died, or another
    process wrote): look there.
    """

    runs: list[Run] = []
    ended: list[int] = []
    results: list[tuple[Result, Event]] = []
    head: int
    floor: Position | None = None
    rescan: bool = False


class CommitStats:
    """What commits came to since the gateway started: operations and seconds each, and how many failed."""

    def __init__(self) -> None:
        self.sizes = Histogram(SIZES)
        self.seconds = Histogram()
        self.failures = 0


Listener = Callable[[Committed], None]
Reply_contra = TypeVar("Reply_contra", contravariant=True)


class Waiter(Protocol[Reply_contra]):
    """Who is told once what became of an operation: a future, or what needs no turn of the loop."""

    def done(self) -> bool:
        """Tell whether it was told already, or does not want to know any more."""

    def set_result(self, result: Reply_contra, /) -> None:
        """Take the reply, after the commit was synced."""

    def set_exception(self, exception: BaseException, /) -> None:
        """Take why there is no reply."""


class Commits(Protocol):
    """The way into the store: what is asked for while a commit is under way goes in the next one.

    Futures resolve after the commit was synced and all listeners were told. A batch whose outcome
    is unknown (disk full, committer killed) fails `publish` and `change` with `Unavailable`;
    `settle`, `append` and `mark` are tried again until it is known, for ever.
    """

    epoch: str
    stats: CommitStats

    def listen(self, listener: Listener) -> None:
        """Have `listener` told of every commit; those who listen first are told first."""

    def publish(self, operation: Publish) -> asyncio.Future[list[StoredEvent]]:
        """Store events. The new runs come to the listeners as `runs`.

        Raises:
            Unavailable: at once, if too much is queued already, with `retry_after`.
        """

    def submit(self, operation: Publish, waiter: Waiter[list[StoredEvent]]) -> None:
        """Store events as `publish` does; `waiter` is told when they are synced, before the listeners."""

    def settle(
        self, operation: Settle, run: Run, handler: str, waiter: Waiter[Settled] | None = None
    ) -> None:
        """Settle an attempt of `run` by the handler of that name; never refused. `waiter` is told, if any."""

    def append(self, operation: Append, run: Run, handler: str) -> asyncio.Future[int]:
        """Append a partial result of `run`; never refused."""

    def mark(self, operation: Mark) -> None:
        """Mark a run as running; never refused."""

    def change(self, operation: Operation) -> asyncio.Future[Any]:
        """Apply any other operation; the future has its reply.

        Raises (from the future):
            Conflict: it was refused by an integrity rule.
            Unavailable: the outcome is unknown.
        """

    @property
    def pid(self) -> int | None:
        """The process id of the committer, None while there is none."""

    @property
    def backlog(self) -> int:
        """Operations that `settle`, `append` and `mark` were given and that are not committed yet."""

    @property
    def healthy(self) -> bool:
        """Whether the last commit went well and a committer is there."""
