"""Group commit, in the gateway: the committer gets one batch at a time.

Operations that arrive during a batch are part of the next one. A committer that dies is replaced at once.
The outcome of its batch is unknown, so `settle`, `append` and `mark` are resent until they are answered.
While nothing can be written, all others are refused: a committer cannot be started, cannot open the database,
or has noticed that a file of the database is not where it was.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec

from busway.domain.event import NewEvent
from busway.domain.run import Run
from busway.gateway.channel import Frame
from busway.gateway.errors import Unavailable
from busway.gateway.store.group import frames
from busway.gateway.store.group.completion import OUTCOMES, Completion, fail, renew
from busway.gateway.store.group.frames import FileId
from busway.gateway.store.group.process import Committer, Launched, open_committer
from busway.gateway.store.group.queues import BACKLOG_BYTES, BACKLOG_OPERATIONS, QueuedOperation, Queues
from busway.gateway.store.port.commits import Again, CommitStats, Committed, Listener, Waiter
from busway.gateway.store.port.operations import (
    Append,
    Mark,
    Operation,
    Publish,
    Settle,
    Settled,
    StoredEvent,
)

log = logging.getLogger("busway.store")

FIRST_DELAY, LONGEST_DELAY = 0.05, 1.0  # seconds between retries while commits fail
PATIENCE = 2.0  # seconds that operations wait for another committer before they are refused
LOST = (
    "the database is not as this gateway left it: it lacks commits, as after a failover to a replica that "
    "was behind, or other nodes considered this one gone. This gateway ends; start it again"
)
STOPPING = "the gateway is stopping: send this again when it is back"
REACHED = 0.002  # seconds between looks whether a commit is known
SEND_NOW = 100  # operations; from here on a batch is sent without waiting for the end of the loop's turn


class GroupCommits:
    """Implements `Commits` over a committer process.

    Args:
        url: the database. It must be migrated and locked before `start`.
        launched: a committer process to use, if one is running.
    """

    def __init__(self, url: str, launched: Launched | None = None) -> None:
        self.epoch, self.stats = "", CommitStats()
        self.notify: Callable[[bytes], None] | None = None  # gets `News` of each commit. None: nothing does
        self._url, self._launched = url, launched
        self._completion = Completion(self._ask_to_match)
        self._on_outdated: Callable[[Publish | Settle, Again], None] | None = None
        self._outdated: list[QueuedOperation] = []  # their events are being matched again
        self._node = (0, "")
        self._queues = Queues()
        self._committer: Committer | None = None
        self._supervisor: asyncio.Task[None] | None = None
        self._batch: list[QueuedOperation] = []
        self._batch_outcomes = 0
        self._suspects = 0  # outcomes at the head of their queue; a committer failed over one of them
        self._number, self._sent_at = 0, 0.0
        self.newest = 0  # number of the newest commit
        self._since = 0  # number of the newest result at the last reply
        self._unsure: int | None = None  # `_since` when the outcome of a batch became unknown
        self._resent = 0  # outcomes at the head of their queue that may be stored already
        self._failure: str | None = None
        self._trouble: str | None = None
        self._refusal: str | None = None  # of everything but outcomes
        self._files: list[FileId] | None = None
        self.log_blocked = self._closing = self._draining = False
        self._delay = 0.0
        self._sending: asyncio.Handle | None = None
        self._turned = asyncio.Event()

    # -- lifecycle

    async def start(self, node: int = 0, name: str = "") -> None:
        """Start the committer and wait until it can write.

        `node`: the id of this node, 0 if the database has only one. `name`: its name.

        Raises:
            Unavailable: it cannot write. Its output on stderr says why.
        """
        self._loop, self._node = asyncio.get_running_loop(), (node, name)
        self.lost = self._loop.create_future()
        committer = await self._open()
        self._since = self._completion.notified
        self._supervisor = asyncio.create_task(self._supervise(committer))

    async def close(self, timeout: float = 30) -> None:
        """Write all queued operations, checkpoint and close the database.

        Args:
            timeout: seconds after which operations that could not be written are failed.
        """
        self._closing, self._refusal = True, STOPPING
        self._completion.finish()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                while (self._queues or self._batch) and self._trouble is None:
                    self._turned.clear()
                    await self._turned.wait()
        if self._supervisor is not None:
            self._supervisor.cancel()
            await asyncio.wait([self._supervisor])
        committer, self._committer = self._committer, None
        if committer is not None:
            await committer.close()
        left = [*self._batch, *self._queues.clear(), *self._outdated]
        fail(left, "the gateway stopped before this was stored: send it again")

    async def drained(self) -> None:
        """Wait until all outcomes are committed and the listeners were notified, or the store fails."""
        self._draining = True
        while self.backlog and self.healthy:
            self._turned.clear()
            await self._turned.wait()
        self._draining = False
        self._completion.finish()

    @property
    def pid(self) -> int | None:
        """Process id of the committer, None while there is none."""
        return self._committer.process.pid if self._committer else None

    @property
    def backlog(self) -> int:
        """Number of `settle`, `append` and `mark` operations that are not committed yet."""
        outdated = sum(isinstance(entry.operation, Settle) for entry in self._outdated)
        return len(self._queues.outcomes) + self._batch_outcomes + outdated

    @property
    def saturated(self) -> bool:
        """Whether so many operations of attempts wait that none should start."""
        outcomes = self._queues.outcomes
        return len(outcomes.entries) > BACKLOG_OPERATIONS or outcomes.bytes > BACKLOG_BYTES

    @property
    def obstacle(self) -> str | None:
        """Why nothing can be written now, or why the last commit failed. None if commits succeed."""
        if self._trouble is None and self._committer is None:
            return "the committer is being started"
        unreachable = self._committer.obstacle if self._committer is not None else None
        return self._trouble or self._failure or unreachable

    @property
    def healthy(self) -> bool:
        """Whether the last commit succeeded and a committer is running."""
        return self._committer is not None and self._trouble is None and self._failure is None

    def listen(self, listener: Listener) -> None:
        """Call `listener` after every commit, after the listeners that were added earlier."""
        self._completion.listen(listener)

    def match_again(self, listener: Callable[[Publish | Settle, Again], None]) -> None:
        """Set the function that matches events again with newer handlers."""
        self._on_outdated = listener

    async def reached(self, number: int) -> None:
        """Wait until the listeners know of this commit of this node, unless its reply was lost."""
        while self.newest < number and self._batch:
            await asyncio.sleep(REACHED)
        self._completion.finish()

    def follow(self, committed: Committed) -> None:
        """Notify the listeners of what another node committed."""
        self._completion.notify(committed)

    # -- operations

    def publish(self, operation: Publish) -> asyncio.Future[list[StoredEvent]]:
        """Store events.

        Raises:
            Unavailable: too much is queued already, or nothing can be written now. From the future: the
                outcome is unknown.
        """
        stored: asyncio.Future[list[StoredEvent]] = self._loop.create_future()
        self._change(operation, len(operation.events), stored)
        return stored

    def encode(self, events: list[NewEvent]) -> bytes:
        """Encode a part of the events for `submit`, fewer than 65,536."""
        return frames.encode(events)

    def decode(self, encoded: bytes) -> list[NewEvent]:
        """Return the events that `encode` has encoded."""
        return frames.decode_new_events(encoded)

    def submit(
        self,
        operation: Publish,
        waiter: Waiter[list[StoredEvent]],
        encoded: list[tuple[int, bytes]] | None = None,
    ) -> None:
        """Store events. `waiter` gets the reply before the listeners are notified.

        Args:
            operation: the events.
            waiter: gets the reply.
            encoded: what `encode` returned for all parts of the events, each with its number of events.

        Raises:
            Unavailable: as from `publish`.
        """
        body = None if encoded is None else frames.encode_publish(operation, encoded)
        self._change(operation, len(operation.events), waiter, body, early=True)

    def change(self, operation: Operation) -> asyncio.Future[Any]:
        """Apply any other operation.

        Raises:
            Unavailable: nothing can be written now. From the future: the outcome is unknown.
            Conflict: from the future: an integrity rule refused it.
        """
        future: asyncio.Future[Any] = self._loop.create_future()
        weight = len(operation.events) if isinstance(operation, Publish) else 1
        self._change(operation, weight, future, frames.encode_change(operation))
        return future

    def settle(
        self, operation: Settle, run: Run, handler: str, waiter: Waiter[Settled] | None = None
    ) -> None:
        """Settle an attempt of `run`."""
        self._outcome(operation, waiter, 1 + len(operation.published), run, handler)

    def append(self, operation: Append, run: Run, handler: str) -> asyncio.Future[int]:
        """Append a partial result of `run`."""
        stored = self._loop.create_future()
        self._outcome(operation, stored, 1, run, handler)
        return stored

    def mark(self, operation: Mark) -> None:
        """Mark a run as running."""
        self._outcome(operation, None, 1, None, "")

    def _change(
        self,
        operation: Operation,
        weight: int,
        waiter: Waiter[Any],
        body: bytes | None = None,
        *,
        early: bool = False,
    ) -> None:
        if self._refusal is not None:
            raise Unavailable(self._refusal)
        if body is None:
            body = frames.encode(operation)
        self._queues.add_change(QueuedOperation(operation, body, waiter, weight, early=early))
        if not self._batch:
            self._kick()

    def _outcome(
        self, operation: Operation, waiter: Waiter[Any] | None, weight: int, run: Run | None, handler: str
    ) -> None:
        entry = QueuedOperation(operation, frames.encode(operation), waiter, weight, run, handler)
        self._queues.outcomes.add(entry)
        if not self._batch and (self._sending is None or len(self._queues.outcomes.entries) >= SEND_NOW):
            self._kick()

    # -- batches

    def _kick(self) -> None:
        """Schedule a batch at the end of this turn of the loop. Many operations are sent at once."""
        if self._batch or self._committer is None or self._trouble is not None:
            return
        queues = self._queues
        waiting = len(queues.outcomes.entries) + len(queues.changes.entries)
        if not waiting:
            return
        if waiting >= SEND_NOW and not self._delay:
            if self._sending is not None:
                self._sending.cancel()
            self._send()
        elif self._sending is None:
            loop, delay = self._loop, self._delay
            self._sending = loop.call_later(delay, self._send) if delay else loop.call_soon(self._send)

    def _send(self) -> None:
        self._sending = None
        if self._batch or self._committer is None or self._trouble is not None:
            return
        size = self._queues.outcomes.bytes + self._queues.changes.bytes
        outcomes, changes = self._queues.take(alone=self._suspects > 0)
        self._batch = outcomes + changes
        self._batch_outcomes = len(outcomes)
        self._number += 1
        self._sent_at = time.monotonic()
        operations = [msgspec.Raw(entry.body) for entry in self._batch]
        self._committer.send(self._number, frames.RawBatch(self._unsure, operations), size)

    def _take(self, frame: Frame) -> None:
        kind, number, body = frame
        if number != self._number or not self._batch:
            if kind == frames.TROUBLE:
                self._take_trouble(frames.decode_trouble(body))
            elif kind == frames.BLOCKED:
                self._take_blocked(frames.decode_blocked(body))
            return
        if kind == frames.DONE:
            self._done(frames.decode_done(body))
            if not (self._closing or self._draining):
                return
        else:
            failed = frames.decode_failed(body)
            self._files = failed.files
            if self._has_lost(failed.commit):
                return
            log.error("a commit failed and its outcome is unknown: %s", failed.why)
            self._delay = min(self._delay * 2 or FIRST_DELAY, LONGEST_DELAY)
            self._fail_batch(
                f"the commit failed and its outcome is unknown ({failed.why}): check the disk of "
                "the database (--database-url) and try again"
            )
            self._catch_up(failed.head)
        if self._closing:
            self._completion.finish()
        self._turned.set()
        self._kick()

    def _done(self, done: frames.RawDone) -> None:
        if self._unsure is not None:
            self._resent -= self._batch_outcomes
            if self._resent <= 0:
                self._unsure = None
        entries = self._end_batch()
        if self._suspects:
            self._suspects -= 1
        self.stats.sizes.add(len(entries))
        self.stats.seconds.add(time.monotonic() - self._sent_at)
        if done.waited:
            self.stats.waits.add(done.waited)
        self._failure, self._delay = None, 0.0
        self._since, self.newest = done.head, done.commit
        if self.notify is not None:
            self.notify(done.news or b"%d" % done.commit)
        self._kick()  # the committer writes the next batch during the notifications for this one
        self._completion.written(entries, done)

    def _end_batch(self) -> list[QueuedOperation]:
        entries, self._batch = self._batch, []
        self._batch_outcomes = 0
        return entries

    def _fail_batch(self, why: str) -> None:
        """Fail the batch in progress, whose outcome is unknown, and requeue its outcomes of attempts."""
        self._completion.finish()  # the earlier batches are stored
        if self._batch_outcomes:
            if self._unsure is None:
                self._unsure, self._resent = self._since, 0
            self._resent = max(self._resent, self._batch_outcomes)
        entries = self._end_batch()
        self._failure = why
        self._turned.set()
        self.stats.failures += bool(entries)
        self._queues.outcomes.put_back([entry for entry in entries if isinstance(entry.operation, OUTCOMES)])
        fail([entry for entry in entries if not isinstance(entry.operation, OUTCOMES)], why)

    # -- newer handlers

    def _ask_to_match(self, entry: QueuedOperation) -> None:
        assert self._on_outdated is not None  # noqa: S101 - set before anything is published
        self._outdated.append(entry)
        self._on_outdated(frames.decode_matched(entry.body), partial(self._send_again, entry))

    def _send_again(self, entry: QueuedOperation, matched: Publish | Settle) -> None:
        self._outdated.remove(entry)
        renew(entry, matched)
        if isinstance(matched, Settle):
            self._queues.outcomes.add(entry)
        elif self._refusal is not None:
            fail([entry], self._refusal)
        else:
            self._queues.changes.add(entry)
        self._kick()

    # -- trouble

    def _take_trouble(self, trouble: frames.Trouble) -> None:
        if trouble.why:
            self._refuse(trouble.why)
        elif not self._has_lost(trouble.commit):
            self._accept()
            self._catch_up(trouble.head)
            self._kick()

    def _has_lost(self, commit: int) -> bool:
        """Return whether the database is not as this gateway left it. Then nothing is written any more."""
        if commit < self.newest:
            self._refuse(LOST)
            if not self.lost.done():
                self.lost.set_result(LOST)
        self.newest = max(self.newest, commit)
        return self.lost.done()

    def _take_blocked(self, blocked: bool) -> None:
        if blocked and not self.log_blocked:
            log.warning(
                "another program keeps a read transaction of the database open: the write-ahead log cannot "
                "be emptied and grows until it ends"
            )
        self.log_blocked = blocked

    def _refuse(self, why: str) -> None:
        """Refuse everything but outcomes until `_accept`. A reason is logged once."""
        if why != self._trouble:
            log.error("publishing is refused: %s", why)
        self._trouble = why
        self._refusal = self._refusal if self._closing else why
        self._fail_batch(f"{why}. It is unknown whether this was stored")
        fail(self._queues.clear_changes(), why)

    def _accept(self) -> None:
        if self._trouble is not None:
            log.info("the database can be written again")
        self._trouble = self._failure = None
        self._refusal = STOPPING if self._closing else None

    def _catch_up(self, head: int) -> None:
        self._completion.notify(Committed(head=head, rescan=True, number=self.newest))

    # -- the process

    async def _supervise(self, committer: Committer) -> None:
        while True:
            await committer.ended.wait()
            self._committer = None
            if self._trouble is None:
                log.error("the committer (process %d) died: starting a new one", committer.process.pid)
            sent = self._batch_outcomes
            self._fail_batch("the committer died while it wrote this and the outcome is unknown: try again")
            why = self._trouble or "the committer died, and no other could open the database yet"
            late = self._loop.call_later(PATIENCE, self._refuse, why)
            try:
                if await committer.failed() and self._trouble is None:
                    self._suspect(sent)
                committer = await self._replace(late)
            finally:
                late.cancel()

    def _suspect(self, sent: int) -> None:
        """Send the outcomes of a batch one by one from now on: the committer failed over it.

        An outcome over which a committer failed again, without any others, is refused.
        """
        if self._suspects and sent == 1:
            self._suspects = 0
            [entry] = self._queues.outcomes.take_one()
            self._completion.refuse(entry, "the committer failed each time that it was to write it")
        else:
            self._suspects = sent

    async def _replace(self, late: asyncio.TimerHandle) -> Committer:
        delay = 0.0
        while True:
            await asyncio.sleep(delay)
            try:
                committer = await self._open()
            except Unavailable as problem:
                self._refuse(problem.detail)
            except Exception as problem:  # no descriptors, no memory, no processes
                self._refuse(f"the committer cannot be started: {problem}")
            else:
                self._accept()
                self._catch_up(self._completion.notified)
                self._kick()
                return committer
            late.cancel()
            delay = min(delay * 2 or FIRST_DELAY, LONGEST_DELAY)

    async def _open(self) -> Committer:
        launched, self._launched = self._launched, None
        committer = await open_committer(
            self._url, self._take, launched, self._files, *self._node, notifies=self.notify is None
        )
        hello = committer.hello.result()
        self._files, self.log_blocked = hello.files, False
        if self._has_lost(hello.commit):
            await committer.kill()
            raise Unavailable(LOST)
        self._committer, self._failure = committer, None
        self.epoch, self._completion.notified = hello.epoch, hello.head
        return committer
