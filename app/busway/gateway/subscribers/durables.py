"""Durable subscriptions: names whose acknowledged state in the log the store keeps.

A name belongs to the gateway, not to a key: a program whose key was replaced goes on where it was. One
subscription has it at a time, the newest: a client that comes back before its old socket was found dead
goes on at once, and of two programs that use one name by mistake the first is told.

Acknowledgements are written in groups, one operation at a time, so however many there are, they ride
along with what is published. What is not written when the gateway dies is forgotten: its results come again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Protocol

from busway.domain.cursor import Position
from busway.gateway.errors import BadCursor, BadSubscription, BuswayError, Conflict, Unavailable
from busway.gateway.store.port.commits import Commits
from busway.gateway.store.port.operations import Acknowledge, DeleteDurable, OpenDurable
from busway.gateway.store.port.reader import DurableRecord, Reader
from busway.gateway.subscribers.frames import TooMany
from busway.gateway.subscribers.session import Subscription

logger = logging.getLogger("busway.durables")

MAX_DURABLES = 10_000
PACE = 0.02  # seconds between writes of acknowledgements


class Holder(Protocol):
    """A connection as durable subscriptions see it."""

    def superseded(self, subscription: Subscription) -> None:
        """End the subscription: another one took its name over."""

    def unacknowledged(self, subscription: Subscription, problem: BuswayError) -> None:
        """Tell that what the client acknowledged was not taken."""


class _NameState:
    """A name in use: what the store has, whose it is, and the newest acknowledgement not written yet.

    `by` made that acknowledgement; the name may be another's meanwhile.
    """

    __slots__ = ("by", "holder", "loading", "position", "wanted")

    def __init__(self, loading: asyncio.Future[DurableRecord | None]) -> None:
        self.loading = loading
        self.position: Position | None = None
        self.wanted: Position | None = None
        self.holder: tuple[Subscription, Holder] | None = None
        self.by: tuple[Subscription, Holder] | None = None


class Durables:
    """The names in use.

    Args:
        commits, reader: the store.
        clock: microseconds since 1970.
    """

    def __init__(self, commits: Commits, reader: Reader, clock: Callable[[], int]) -> None:
        self._commits, self._reader, self._clock = commits, reader, clock
        self._names: dict[str, _NameState] = {}
        self._waiting: set[str] = set()
        self._writing: asyncio.Task[None] | None = None
        self._taken = self._written = 0
        self._turned = asyncio.Event()

    def in_use(self, name: str) -> bool:
        """Tell whether a subscription has the name."""
        state = self._names.get(name)
        return state is not None and state.holder is not None

    async def claim(self, subscription: Subscription, name: str, holder: Holder) -> Position | None:
        """Give the name to a subscription, over whoever has it; return its state, None if it has none yet.

        Raises:
            Unavailable: the store cannot be read.
        """
        state = self._names.get(name)
        if state is None:
            loading = asyncio.ensure_future(self._reader.durable(name))
            state = self._names[name] = _NameState(loading)
        before, state.holder = state.holder, (subscription, holder)
        if before is not None:
            before[1].superseded(before[0])
        record = await asyncio.shield(state.loading)
        if state.position is None and record is not None:
            state.position = record.position
        if state.wanted is not None:
            await self.settled()  # nobody acknowledges under this name now
        return state.position

    async def begin(self, subscription: Subscription, name: str, position: Position) -> Position:
        """Keep the first state of a name that has none; return the state it has then.

        Raises:
            BadSubscription: another subscription took the name over.
            TooMany: there are too many names.
            Unavailable: the outcome is unknown.
        """
        number, digest = position.number, position.digest
        reply = await self._commits.change(
            OpenDurable(name=name, number=number, digest=digest, now=self._clock(), most=MAX_DURABLES)
        )
        state = self._held(subscription, name)
        if state is None:
            raise superseded(name)
        if reply is None:
            raise TooMany(
                f"there are {MAX_DURABLES} durable names: GET /v1/subscriptions lists them, DELETE one"
            )
        state.position = Position(*reply)
        return state.position

    def acknowledge(self, subscription: Subscription, name: str, position: Position) -> None:
        """Have everything up to `position` kept as acknowledged, soon.

        Raises:
            BadCursor: it is behind what was acknowledged before, or contradicts it.
        """
        state = self._held(subscription, name)
        if state is None or state.position is None:
            raise BadCursor(f"the durable name {name!r} is not this subscription's any more")
        newest = state.wanted or state.position
        if position == newest:
            return
        if position.number <= newest.number:
            raise BadCursor("more than that was acknowledged already, and an acknowledgement never goes back")
        state.wanted, state.by = position, state.holder
        self._waiting.add(name)
        self._taken += 1
        if self._writing is None:
            self._writing = asyncio.ensure_future(self._write())

    def release(self, subscription: Subscription, name: str) -> None:
        """Give the name back, if the subscription still has it."""
        state = self._held(subscription, name)
        if state is not None:
            state.holder = None
            self._forget(name, state)

    async def delete(self, name: str) -> bool:
        """Forget a name for good; False if there is none.

        Raises:
            Conflict: a subscription has it.
            Unavailable: the outcome is unknown.
        """
        await self.settled()
        if name in self._names:
            raise Conflict(f"a subscription has the durable name {name!r}: unsubscribe it first")
        deleting = self._commits.change(DeleteDurable(name=name))
        # Whoever claims the name meanwhile waits for the end of it, and begins anew.
        state = self._names[name] = _NameState(asyncio.ensure_future(_nothing_after(deleting)))
        try:
            await asyncio.shield(state.loading)
            return bool(deleting.result())
        finally:
            self._forget(name, state)

    async def settled(self) -> None:
        """Wait until everything that was acknowledged before this call is written, or refused."""
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
            refused, problem = await self._store(positions)
            for name, position in positions.items():
                self._note(name, position, problem if name in refused else None)
            self._written = taken
            self._turned.set()
            await asyncio.sleep(PACE)
        self._writing = None

    async def _store(self, positions: dict[str, Position]) -> tuple[set[str], BuswayError]:
        """Write positions; return the names that were refused, and why."""
        operation = Acknowledge(
            positions=[(name, position.number, position.digest) for name, position in positions.items()],
            now=self._clock(),
        )
        why = BadCursor("that cursor is of another state of this log: acknowledge one that you were sent")
        try:
            return set(await self._commits.change(operation)), why
        except BuswayError as problem:
            return set(positions), Unavailable(f"that was not acknowledged, do it again: {problem.detail}")
        except Exception:
            logger.exception("acknowledgements cannot be written")
            return set(positions), Unavailable(
                "that was not acknowledged, do it again: a fault of the gateway"
            )

    def _note(self, name: str, position: Position, problem: BuswayError | None) -> None:
        state = self._names[name]
        if problem is None:
            state.position = position
        if state.wanted == position:
            state.wanted = None
        if problem is not None and state.by is not None:
            _tell(*state.by, problem)
        self._forget(name, state)


def _tell(subscription: Subscription, holder: Holder, problem: BuswayError) -> None:
    try:
        holder.unacknowledged(subscription, problem)
    except Exception:  # one subscriber's fault must not reach the others
        logger.exception("a subscriber cannot be told that its acknowledgement was not taken")


async def _nothing_after(deleting: asyncio.Future[bool]) -> None:
    await deleting


def superseded(name: str) -> BadSubscription:
    """Return the error for a subscription whose name was taken over."""
    return BadSubscription(
        f"another subscription took the durable name {name!r} over: this one has ended; "
        "give each program a name of its own"
    )
