"""Durable subscriptions: the store keeps the acknowledged position for each durable name.

A name belongs to the gateway, not to an API key: a program can replace its key and continue. But a key that
is limited to type patterns uses only names of keys with the same patterns. One subscription
uses a name at a time, the newest. So a client that reconnects before its old socket is detected as dead
continues at once. If two programs use one name by mistake, the first gets an error.

If several nodes use the database, a subscription takes a name over in a commit, which raises the generation
of the name. The other nodes read that commit and end their subscription, and the store refuses
acknowledgements of an older generation. A single node needs no commit.

Acknowledgements are written in batches, one operation at a time, together with published events. If the
gateway dies, acknowledgements that are not written yet are lost, and their results are sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import Protocol

from busway.domain.cursor import Position
from busway.gateway.access.scopes import OPEN, Access
from busway.gateway.errors import BadCursor, BadSubscription, BuswayError, Conflict, Unavailable
from busway.gateway.store.port.commits import Commits, Committed
from busway.gateway.store.port.operations import (
    Acknowledge,
    DeleteDurable,
    OpenDurable,
    Opened,
    ReleaseDurable,
    TakeDurable,
    Unmoved,
)
from busway.gateway.store.port.reader import DurableRecord, Reader
from busway.gateway.subscribers.frames import TooMany
from busway.gateway.subscribers.session import Subscription

logger = logging.getLogger("busway.durables")

MAX_DURABLES = 10_000
MAX_OF_KEY = 5_000  # of one API key
PACE = 0.02  # seconds between writes of acknowledgements


class Holder(Protocol):
    """A connection as durable subscriptions see it."""

    def superseded(self, subscription: Subscription) -> None:
        """End the subscription: another one took over its name."""

    def unacknowledged(self, subscription: Subscription, problem: BuswayError) -> None:
        """Report that an acknowledgement of the client was refused."""


class _NameState:
    """A name in use.

    Attributes:
        position: the acknowledged position in the store.
        generation: of the name, as this gateway has it. 0 while it is unknown.
        newest: the newest generation that another node has.
        holder: the subscription that uses the name, and its connection.
        wanted: the newest acknowledgement that is not written yet.
        by: the subscription that sent `wanted`. The name may have another holder now.
    """

    __slots__ = ("by", "generation", "holder", "loading", "newest", "position", "wanted")

    def __init__(self, loading: asyncio.Future[DurableRecord | None]) -> None:
        self.loading = loading
        self.position: Position | None = None
        self.generation = self.newest = 0
        self.wanted: Position | None = None
        self.holder: tuple[Subscription, Holder] | None = None
        self.by: tuple[Subscription, Holder] | None = None


class Durables:
    """The durable names in use.

    Args:
        commits, reader: the store.
        clock: microseconds since 1970.
        others: returns the other nodes that use the database. None: it can have no other.
    """

    def __init__(
        self,
        commits: Commits,
        reader: Reader,
        clock: Callable[[], int],
        others: Callable[[], set[int]] | None = None,
    ) -> None:
        self._commits, self._reader, self.clock, self._others = commits, reader, clock, others
        self._names: dict[str, _NameState] = {}
        self._waiting: set[str] = set()
        self._writing: asyncio.Task[None] | None = None
        self._taken = self._written = 0
        self._turned = asyncio.Event()

    def in_use(self, record: DurableRecord) -> bool:
        """Return whether a subscription uses the name, here or on another node."""
        state = self._names.get(record.name)
        return (state is not None and state.holder is not None) or self._elsewhere(record)

    def committed(self, committed: Committed) -> None:
        """End subscriptions whose name was taken over on another node. A listener of commits."""
        for name, generation in committed.durables:
            state = self._names.get(name)
            if state is not None:
                state.newest = max(state.newest, generation)
                if state.generation:
                    self._check_generation(name, state)

    async def check_types(self, name: str, within: tuple[str, ...]) -> None:
        """Check that a key with these type patterns may use a name: it is new, or of a key with the same.

        Raises:
            BadSubscription: the key that created it has others.
        """
        record = await self._reader.durable(name)
        if record is not None and record.types != within:
            raise BadSubscription(
                f"the durable name {name!r} belongs to a key with other type patterns: use another name"
            )

    async def claim(self, subscription: Subscription, name: str, holder: Holder) -> Position | None:
        """Assign the name to a subscription, instead of its current holder. Return its position, if any.

        Raises:
            BadSubscription: another subscription took over the name meanwhile.
            Unavailable: the store cannot be read.
        """
        state = self._names.get(name)
        if state is None:
            reading = _nothing() if self._others else self._reader.durable(name)
            state = self._names[name] = _NameState(asyncio.ensure_future(reading))
        before, state.holder = state.holder, (subscription, holder)
        if before is not None:
            before[1].superseded(before[0])
        record = await asyncio.shield(state.loading)
        if state.position is None and record is not None:
            state.position, state.generation = record.position, record.generation
        if state.wanted is not None:
            await self.settled()  # no subscription can acknowledge under this name now
        if self._others:
            self._opened(subscription, name, await self._commits.change(TakeDurable(name=name)))
        return state.position

    def _opened(self, subscription: Subscription, name: str, opened: Opened | None) -> _NameState:
        state = self._held(subscription, name)
        if state is None:
            if opened is not None and self._others and name not in self._names:  # the subscription has ended
                self._released(name, opened.generation)
            raise superseded(name)
        if opened is not None:
            state.position = Position(opened.number, opened.digest)
            state.generation = opened.generation
            if not self._check_generation(name, state):
                raise superseded(name)
        return state

    def _check_generation(self, name: str, state: _NameState) -> bool:
        """Return whether the name is still this node's. End its subscription if not."""
        if state.generation >= state.newest:
            return True
        before, state.holder = state.holder, None
        self._forget(name, state)
        if before is not None:
            before[1].superseded(before[0])
        return False

    def _released(self, name: str, generation: int) -> None:
        """Record that no subscription has the name. A failure only delays until this node has ended."""
        with contextlib.suppress(Unavailable):
            storing = self._commits.change(ReleaseDurable(name=name, generation=generation))
            storing.add_done_callback(lambda done: done.cancelled() or done.exception())

    def _elsewhere(self, record: DurableRecord | None) -> bool:
        return bool(record and self._others and record.holder in self._others())

    async def begin(
        self, subscription: Subscription, name: str, position: Position, access: Access = OPEN
    ) -> Position:
        """Store the first position of a name that has none. Return the position that the name has then.

        `access`: of the client that creates it.

        Raises:
            BadSubscription: another subscription took over the name.
            TooMany: there are too many names.
            Unavailable: the outcome is unknown.
        """
        number, digest = position.number, position.digest
        reply = await self._commits.change(
            OpenDurable(
                name=name,
                number=number,
                digest=digest,
                now=self.clock(),
                most=MAX_DURABLES,
                key=access.key,
                types=list(access.types) or None,
                most_of_key=MAX_OF_KEY,
            )
        )
        state = self._opened(subscription, name, reply)
        if reply is None or state.position is None:
            raise TooMany(
                f"there are {MAX_DURABLES} durable names, or {MAX_OF_KEY} of this API key, the maximum: "
                "delete one of GET /v1/subscriptions"
            )
        return state.position

    def acknowledge(self, subscription: Subscription, name: str, position: Position) -> None:
        """Schedule the write of an acknowledgement of everything up to `position`.

        Raises:
            BadCursor: it is behind an earlier acknowledgement, or contradicts it.
        """
        state = self._held(subscription, name)
        if state is None or state.position is None:
            raise BadCursor(f"this subscription no longer has the durable name {name!r}: subscribe again")
        newest = state.wanted or state.position
        if position == newest:
            return
        if position.number <= newest.number:
            raise BadCursor("a later cursor was already acknowledged: an acknowledgement cannot go back")
        state.wanted, state.by = position, state.holder
        self._waiting.add(name)
        self._taken += 1
        if self._writing is None:
            self._writing = asyncio.ensure_future(self._write())

    def release(self, subscription: Subscription, name: str) -> None:
        """Release the name, if the subscription still has it."""
        state = self._held(subscription, name)
        if state is not None:
            state.holder = None
            if self._others and state.generation:
                self._released(name, state.generation)
            self._forget(name, state)

    async def delete(self, name: str) -> bool:
        """Delete a name. Return False if it does not exist.

        Raises:
            Conflict: a subscription uses it.
            Unavailable: the outcome is unknown.
        """
        await self.settled()
        record = await self._reader.durable(name)
        if name in self._names or self._elsewhere(record if self._others else None):
            raise Conflict(f"a subscription uses the durable name {name!r}: unsubscribe it first")
        if record is None:
            return False
        deleting = self._commits.change(DeleteDurable(name=name))
        # A subscription that claims the name now waits for the deletion, and then begins anew.
        state = self._names[name] = _NameState(asyncio.ensure_future(_nothing_after(deleting)))
        try:
            await asyncio.shield(state.loading)
            return bool(deleting.result())
        finally:
            self._forget(name, state)

    async def settled(self) -> None:
        """Wait until all acknowledgements before this call are written or refused."""
        goal = self._taken
        while self._written < goal:
            self._turned.clear()
            await self._turned.wait()

    def _held(self, subscription: Subscription, name: str) -> _NameState | None:
        state = self._names.get(name)
        return state if state and state.holder and state.holder[0] is subscription else None

    def _forget(self, name: str, state: _NameState) -> None:
        if state.holder is None and state.wanted is None and self._names.get(name) is state:
            del self._names[name]

    async def _write(self) -> None:
        while self._waiting:
            names, self._waiting = self._waiting, set()
            positions = {name: wanted for name in names if (wanted := self._names[name].wanted)}
            taken = self._taken
            refused = await self._store(positions)
            for name, position in positions.items():
                self._note(name, position, refused.get(name))
            self._written = taken
            self._turned.set()
            await asyncio.sleep(PACE)
        self._writing = None

    async def _store(self, positions: dict[str, Position]) -> dict[str, BuswayError]:
        """Write positions. Return why names were refused."""
        operation = Acknowledge(
            positions=[
                (name, position.number, position.digest, self._names[name].generation)
                for name, position in positions.items()
            ],
            now=self.clock(),
        )
        try:
            unmoved: Unmoved = await self._commits.change(operation)
        except BuswayError as problem:
            why = Unavailable(f"the acknowledgement was not stored, send it again: {problem.detail}")
            return dict.fromkeys(positions, why)
        except Exception:
            logger.exception("cannot write acknowledgements")
            return dict.fromkeys(
                positions, Unavailable("internal error: the acknowledgement was not stored, send it again")
            )
        unknown = BadCursor("the cursor is not in this log: acknowledge a cursor that you received")
        return {
            **dict.fromkeys(unmoved.unknown, unknown),
            **{name: superseded(name) for name in unmoved.taken_over},
        }

    def _note(self, name: str, position: Position, problem: BuswayError | None) -> None:
        state = self._names[name]
        if problem is None:
            state.position = position
        if state.wanted == position:
            state.wanted = None
        if problem is not None and state.by is not None:
            _report(*state.by, problem)
        self._forget(name, state)


def _report(subscription: Subscription, holder: Holder, problem: BuswayError) -> None:
    try:
        holder.unacknowledged(subscription, problem)
    except Exception:  # an error of one subscriber must not reach the others
        logger.exception("cannot report a refused acknowledgement to a subscriber")


async def _nothing() -> None:
    pass


async def _nothing_after(deleting: asyncio.Future[bool]) -> None:
    await deleting


def superseded(name: str) -> BadSubscription:
    """Return the error for a subscription whose name another one took over."""
    return BadSubscription(
        f"another subscription took over the durable name {name!r}, and this one has ended: "
        "use a different name in each program"
    )
