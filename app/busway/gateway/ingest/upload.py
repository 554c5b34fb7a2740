"""Uploads of NDJSON: lines are stored in batches while more of them arrive.

One batch of an upload is committed at a time, and the next one is read meanwhile. When that is full, too, the
upload reads nothing until the commit is done. So an upload of any length takes little memory.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from busway.contract.uploads import RejectedLine, UploadResult
from busway.domain.event import NewEvent
from busway.domain.handler import Rules
from busway.domain.pattern import Matcher
from busway.gateway.budget import Budget
from busway.gateway.errors import Conflict, Overloaded, TooManyRequests, Unavailable
from busway.gateway.ingest import lines as ndjson
from busway.gateway.ingest.publisher import Publisher
from busway.gateway.ingest.reading import outside
from busway.gateway.store.port.commits import Commits
from busway.gateway.store.port.operations import Publish, StoredEvent
from busway.gateway.store.port.reader import Reader
from busway.gateway.store.port.uploads import Upload as UploadOperation
from busway.gateway.store.port.uploads import Uploaded
from busway.gateway.turns import Steps

BATCH_LINES = 1_000  # events and rejected lines of a batch, without the slice that fills it
BATCH_BYTES = 1 << 20  # likewise
SHOWN = 1_000  # rejected lines that are named
DETAIL = 500  # characters of the reason
KEPT = 7 * 86_400 * 1_000_000  # microseconds for which a producer without a line is kept
MOST = 100_000  # producers that are kept
AGAIN = 0.05  # seconds after which a batch is sent again for which there was no room
PATIENCE = 60.0  # seconds until the upload ends if there is none

_Events = list[tuple[int, NewEvent]]
_Rejected = list[tuple[int, str]]
Done = Callable[[UploadResult, BaseException | None], None]


def missing_lines(first: int, known: int) -> Conflict:
    """Return the error of an upload that begins behind the lines that are taken."""
    return Conflict(
        f"the upload begins with line {first} (Producer-Seq), but {known} lines of this producer are taken: "
        f"begin with line {known}, or with another Producer-Id and Producer-Seq 0"
    )


class _Batch:
    """Lines that are read and not stored. `first`: the number of the first one, from 0."""

    __slots__ = ("edition", "events", "first", "lines", "numbers", "rejected", "size")

    def __init__(self, first: int) -> None:
        self.first, self.lines, self.size = first, 0, 0
        self.events: list[NewEvent] = []
        self.numbers: list[int] = []  # of the events' lines
        self.rejected: list[tuple[int, str]] = []
        self.edition: object = None  # of the handlers with which they were matched

    @property
    def full(self) -> bool:
        return len(self.events) + len(self.rejected) >= BATCH_LINES or self.size >= BATCH_BYTES

    @property
    def end(self) -> int:
        return self.first + self.lines

    def begin_at(self, first: int) -> None:
        """Remove the lines before this one."""
        at = next((n for n, number in enumerate(self.numbers) if number >= first), len(self.numbers))
        del self.events[:at], self.numbers[:at]
        self.rejected = [each for each in self.rejected if each[0] >= first]
        self.lines -= first - self.first
        self.first = first


def _split(events: _Events, rejected: _Rejected, allowed: Matcher) -> tuple[_Events, _Rejected]:
    """Reject the events of types that are not allowed."""
    refused = [(at, outside(event.type)) for at, event in events if not allowed(event.type)]
    return [each for each in events if allowed(each[1].type)], sorted(rejected + refused)


class Parts(NamedTuple):
    """What an upload uses of the gateway.

    Attributes:
        publisher: says whether events are accepted.
        commits: writes to the store.
        reader: knows how far producers have come.
        rules: matches events to handlers.
        clock: returns microseconds since 1970.
        max_event_bytes: maximum size of one event.
        budget: memory for what has arrived and is not stored.
        check: raises if the upload is not allowed any more. It is called before each batch.
        allowed: which event types the key may publish. None: all.
        pace: counts lines for the rate of the client. Returns for how many seconds they have to wait.
    """

    publisher: Publisher
    commits: Commits
    reader: Reader
    rules: Rules
    clock: Callable[[], int]
    max_event_bytes: int
    budget: Budget
    check: Callable[[], object]
    allowed: Matcher | None = None
    pace: Callable[[int], float] = lambda _: 0.0


class Upload:
    """One upload.

    Args:
        parts: of the gateway.
        producer: its producer id.
        first: the number of its first line, from 0.
        unread: called with the number of bytes that wait. Add no more while it is large.
        done: called once, with what became of the lines, and with the reason if not all of them were taken.

    Attributes:
        result: what became of the lines that are taken.
    """

    def __init__(
        self, parts: Parts, producer: str | None, first: int, unread: Callable[[int], None], done: Done
    ) -> None:
        self.result = UploadResult(lines=first)
        self._parts, self._producer, self._unread, self._done = parts, producer, unread, done
        self._loop = asyncio.get_running_loop()
        self._splitter = ndjson.Splitter(parts.max_event_bytes)
        self._read = first  # number of the next line to be read
        self._known = first  # lines before this one are taken
        self._batch = _Batch(first)
        self._sent: _Batch | None = None
        self._held = 0  # bytes of the budget
        self._ready = producer is None
        self._ended = self._scheduled = self._working = self._over = False
        self._problem: BaseException | None = None
        self._patience = 0.0
        self._resuming = None if producer is None else asyncio.create_task(self._resume(producer))

    # -- what the request calls

    def add(self, part: bytes) -> None:
        """Take the next bytes of the body."""
        if self._over or self._problem:
            return
        try:
            self._parts.budget.take(len(part))
        except Unavailable as problem:
            self.fail(problem)
            return
        self._held += len(part)
        self._splitter.add(part)
        self._unread(self._splitter.size)  # until they are read: a loop may read much in one turn
        self._work_soon()

    def end(self) -> None:
        """The body has ended."""
        self._ended = True
        self._splitter.end()
        self._work_soon()

    def fail(self, problem: BaseException) -> None:
        """End the upload. The batch that is being committed still counts."""
        if self._over:
            return
        self._problem = self._problem or problem
        self._drop()
        if self._sent is None:
            self._finish()

    def abandon(self) -> None:
        """The client is gone."""
        self._over = True
        self._drop()

    async def _resume(self, producer: str) -> None:
        """Look how far the producer has come, then begin."""
        try:
            found = await self._parts.reader.producer(producer)
            self._go_on(found.lines if found else 0)
        except Exception as problem:
            self.fail(problem)
            return
        self._ready = True
        self._work()

    def _go_on(self, known: int) -> None:
        """Skip the lines before this one.

        Raises:
            Conflict: lines before those of this upload are missing.
        """
        self.result.lines = known
        if known < self._known:
            raise missing_lines(self._known, known)
        self._known = known

    # -- the work

    def _work_soon(self) -> None:
        """Work once for all parts that arrive in this turn of the loop: they may be very many."""
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._work)

    def _work(self) -> None:
        """Read, and send what is read, as far as possible now."""
        self._scheduled = False
        if self._working:
            self._unread(self._splitter.size)
        elif self._ready and not self._over and not self._problem:
            self._working = True
            self._parts.publisher.turns.start(self._steps(), self.fail)
        elif not self._ready:
            self._unread(self._splitter.size)

    def _steps(self) -> Steps[None]:
        try:
            yield from self._all_steps()
        except Exception as problem:
            self.fail(problem)
        finally:
            self._working = False
        if self._over or self._problem:
            return
        self._unread(self._splitter.size if self._batch.full else 0)
        if self._ended and self._sent is None and not self._batch.lines:
            self._finish()

    def _all_steps(self) -> Steps[None]:
        while not (self._over or self._problem):
            found = [] if self._batch.full else self._splitter.take()
            if found:
                yield from self._read_slice(found)
                yield
            elif self._batch.lines and self._sent is None:
                yield from self._send()
            else:
                break

    def _read_slice(self, found: list[ndjson.Line]) -> Steps[None]:
        first, batch = self._read, self._batch
        self._read += len(found)
        old = min(max(self._known - first, 0), len(found))
        if old:  # so are those that were read before
            self.result.skipped += old + batch.lines
            found, first = found[old:], first + old
            batch = self._batch = _Batch(first)
        size = sum(len(line) + 1 for line in found if isinstance(line, bytes))
        parts = self._parts
        edition = parts.rules.edition
        events, rejected = yield from ndjson.read_lines(found, parts.clock(), parts.max_event_bytes)
        if parts.allowed is not None:
            events, rejected = _split(events, rejected, parts.allowed)
        yield from parts.rules.match_all([event for _, event in events])
        if not batch.lines:
            batch.edition = edition
        elif batch.edition is not edition:
            batch.edition = None
        batch.lines += len(found)
        batch.size += size
        for at, event in events:
            batch.events.append(event)
            batch.numbers.append(first + at)
        batch.rejected += [(first + at, detail[:DETAIL]) for at, detail in rejected]
        self._account()

    def _send(self) -> Steps[None]:
        batch, rules = self._batch, self._parts.rules
        while batch.edition is not rules.edition:  # a handler that was deleted meanwhile gets no run
            batch.edition = rules.edition
            yield from rules.match_all(batch.events)
        if self._over or self._problem:
            return
        self._sent, self._batch = batch, _Batch(batch.end)
        try:
            wait = self._parts.pace(batch.lines)
        except TooManyRequests as problem:
            self._lost(problem)
            return
        self._patience = self._loop.time() + wait + PATIENCE
        if wait:
            self._loop.call_later(wait, self._submit)
        else:
            self._submit()

    def _submit(self) -> None:
        """Send the batch to the store. Try again while too much waits there."""
        batch = self._sent
        if batch is None or self._over or self._problem:
            self._lost(self._problem or Unavailable("the client is gone"))
        elif closed := self._parts.publisher.closed:
            self._lost(Unavailable(closed))
        else:
            try:
                self._parts.check()
                self._store(batch)
            except Overloaded as refusal:
                if self._loop.time() < self._patience:
                    self._loop.call_later(AGAIN, self._submit)
                else:
                    self._lost(refusal)
            except Exception as fault:
                self._lost(fault)

    def _store(self, batch: _Batch) -> None:
        parts = self._parts
        if self._producer is not None:
            parts.commits.change(self._operation(batch, self._producer)).add_done_callback(self._replied)
        elif batch.events:
            parts.commits.submit(Publish(rules=parts.rules.version, events=batch.events), self)
        else:
            self.set_result([])

    def _operation(self, batch: _Batch, producer: str) -> UploadOperation:
        now = self._parts.clock()
        return UploadOperation(
            rules=self._parts.rules.version,
            events=batch.events,
            producer=producer,
            first=batch.first,
            lines=batch.lines,
            rejected=len(batch.rejected),
            now=now,
            oldest=now - KEPT,
            most=MOST,
        )

    # -- replies

    def _replied(self, reply: asyncio.Future[Uploaded]) -> None:
        if (failure := reply.exception()) is not None:
            self._lost(failure)
            return
        uploaded, batch = reply.result(), self._sent
        if uploaded.stored is not None or batch is None:
            self.set_result(uploaded.stored or [])
            return
        try:  # another upload of this producer is at work
            self._go_on(uploaded.lines)
        except Conflict as problem:
            self._lost(problem)
            return
        taken = min(uploaded.lines, batch.end)
        self.result.skipped += taken - batch.first
        batch.begin_at(taken)
        if batch.lines:
            self._submit()
        else:
            self._sent = None
            self._continue()

    def done(self) -> bool:
        """Never done: what is stored counts even if the client is gone."""
        return False

    def set_result(self, stored: list[StoredEvent]) -> None:
        """Count the lines of the batch that is stored."""
        batch, self._sent = self._sent, None
        if batch is None:
            return
        result = self.result
        duplicates = sum(one.duplicate for one in stored)
        result.duplicates += duplicates
        result.accepted += len(stored) - duplicates
        result.rejected_total += len(batch.rejected)
        room = SHOWN - len(result.rejected)
        result.rejected += [RejectedLine(number + 1, detail) for number, detail in batch.rejected[:room]]
        result.lines = max(result.lines, batch.end)
        self._continue()

    def set_exception(self, problem: BaseException) -> None:
        """End the upload: the batch is not stored, or its outcome is unknown."""
        self._lost(problem)

    def _lost(self, problem: BaseException) -> None:
        self._sent = None
        self._account()
        if not self._over:
            self.fail(problem)

    def _continue(self) -> None:
        self._account()
        if self._problem is not None and not self._over:
            self._finish()
        elif not self._working:
            self._work()

    # -- the end

    def _drop(self) -> None:
        self._splitter.clear()
        self._batch = _Batch(self._batch.first)
        self._account()

    def _finish(self) -> None:
        self._over = True
        self._drop()
        self._done(self.result, self._problem)

    def _account(self) -> None:
        """Give back the bytes of the budget that are not kept any more."""
        kept = self._splitter.size + self._batch.size + (self._sent.size if self._sent else 0)
        self._parts.budget.give(self._held - kept)
        self._held = kept
