"""The port: what a node needs to know of its cell."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

import msgspec

from busway.gateway.nodes.notifications.port import BrokerStatus
from busway.gateway.store.port.cell import Offer
from busway.gateway.store.port.operations import Lead
from busway.gateway.store.port.reader import RunningRun

TakeLead = Callable[[Lead], Awaitable[bool]]
"""Applies the operation. Returns False if another node leads."""

Led = Callable[[], Coroutine[Any, Any, None]]
"""Called when this node leads."""

CodeChanged = Callable[[list[bytes], list[bytes]], None]
"""Gets catalogs of handler code, as they were offered.

Args:
    those of all open nodes with workers, by first appearance.
    those that appeared later, and which no node has replaced by its own code of now.
"""


class NodeStatus(msgspec.Struct, kw_only=True):
    """A node of the cell.

    `id`: 0 if the database has only one. `role`: `all`, `gateway` or `worker`. `leader`: it hands out runs.
    `this`: it answers this request. `version`: of Busway. `code`: as in `NodeRow`. `opened_at`: microseconds
    since 1970. `capacity`: attempts that it runs at a time by pool. `running`: attempts that it runs by pool.
    `lag`: commits that it has not applied.
    """

    id: int
    name: str
    role: str
    version: str
    code: str
    leader: bool
    this: bool
    opened_at: int
    capacity: dict[str, int]
    running: dict[str, int]
    lag: int


class CellStatus(msgspec.Struct, kw_only=True):
    """The cell. `nodes`: oldest first. `term`: the newest one, 0 if the database has one node.

    `led`: a node leads that is not gone. `problem`: why this node does not know the others now, None if it
    does.
    """

    nodes: list[NodeStatus]
    term: int
    led: bool
    problem: str | None

    @property
    def this(self) -> NodeStatus | None:
        """This node, None if its row is closed."""
        return next((node for node in self.nodes if node.this), None)


class AssignedRuns(Protocol):
    """The runs that the leader assigned to this node."""

    async def find(self, ids: list[int], known: list[RunningRun]) -> list[RunningRun]:
        """Return those of these runs that run. Those that are not `known` are read.

        Raises:
            Unavailable: the store cannot be read.
        """

    def accept(self, node: int, ids: list[int], running: list[RunningRun]) -> None:
        """Start the attempts of these runs that this node has. `running`: what `find` has just returned."""

    def stop(self) -> None:
        """Give back what has not started, and all that comes later."""

    async def returned(self) -> None:
        """Wait until everything that was given back is stored."""


class Nodes(Protocol):
    """The cell, as one of its nodes sees it.

    Attributes:
        id: of this node. 0 if the database has only one.
        name: of this node.
        leads: whether this node hands out runs.
    """

    id: int
    name: str
    leads: bool

    def clock(self) -> int:
        """Return the time that all nodes share, in microseconds since 1970."""

    async def join(self) -> int:
        """Become a node of the cell. Return the id. Call it first.

        Raises:
            Unavailable: the database cannot be used.
        """

    async def lead(self, take: TakeLead) -> bool:
        """Lead, if no other node does. Return whether this node leads.

        Raises:
            Unavailable: the database cannot be used.
        """

    async def confirm(self, version: int) -> None:
        """Let the other nodes wait from now on until this one has newer handlers and keys than this version.

        Raises:
            Unavailable: the database cannot be used.
        """

    def follow(self, take: TakeLead, led: Led, renew: Callable[[], Awaitable[None]]) -> None:
        """From now on apply what other nodes commit, and call `led` if this node leads later.

        `renew` reads the keys, which another node may have changed.
        """

    def offer(self, offer: Offer) -> None:
        """Tell the other nodes what this one can run."""

    async def shared(self) -> None:
        """Wait until the other nodes can see what this one offered, and this one has seen what they offer."""

    @property
    def knows_code(self) -> bool:
        """Whether it is known which handler code there is: since a node with workers has joined."""

    async def hand_over(self, mark: Callable[[], None]) -> None:
        """Leave the lead to another node. `mark` marks the attempts of this node as running before."""

    def drain(self) -> None:
        """Take no more runs of other nodes, and give back those that have not started."""

    async def drained(self) -> None:
        """Wait until what was given back is stored."""

    async def current(self) -> None:
        """Wait until this node has the handlers that the store has now.

        Raises:
            Unavailable: the database cannot be used.
        """

    async def spread(self) -> None:
        """Wait until all nodes have the handlers and keys that the store has now.

        Raises:
            Unavailable: a node does not confirm it, or the database cannot be used.
        """

    async def stop_following(self) -> None:
        """Undo `follow`: apply nothing more, and lead no more. This node still belongs to the cell."""

    async def close(self) -> None:
        """Leave the cell, after the last commit."""

    def listen(
        self,
        running: Callable[[], dict[str, int]],
        offers_changed: Callable[[], None],
        code_changed: CodeChanged,
    ) -> None:
        """Set functions.

        Args:
            running: returns how many attempts this node runs by pool.
            offers_changed: called when other nodes can run more, or something else.
            code_changed: called when the nodes with workers have other versions of the handler code.
        """

    def offered(self, target: str) -> bool:
        """Return whether another node can run a target."""

    def status(self) -> CellStatus:
        """Return the state of the cell."""

    def broker(self) -> BrokerStatus | None:
        """Return the state of the broker that nodes notify each other over, None if there is none."""
