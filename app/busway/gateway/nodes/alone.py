"""The only node of a database."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from busway.domain.run import MAX_LOSSES
from busway.gateway.nodes.notifications.port import BrokerStatus
from busway.gateway.nodes.port import CellStatus, CodeChanged, Led, NodeStatus, TakeLead
from busway.gateway.store.port.cell import Offer, capacity
from busway.gateway.store.port.operations import Lead
from busway.version import __version__


class Alone:
    """Implements `Nodes` for a database that has one node.

    Args:
        name: of the node.
        clock: microseconds since 1970.
    """

    id = 0
    leads = False

    def __init__(self, name: str, clock: Callable[[], int]) -> None:
        self.name, self.clock, self._opened_at = name, clock, clock()
        self._offer = Offer()
        self._running: Callable[[], dict[str, int]] = dict

    async def join(self) -> int:
        """Return the id, 0."""
        return self.id

    async def lead(self, take: TakeLead) -> bool:
        """Lead."""
        self.leads = await take(Lead(now=self.clock(), max_losses=MAX_LOSSES))
        return self.leads

    async def confirm(self, version: int) -> None:
        """Do nothing: there is no other node."""

    def follow(self, take: TakeLead, led: Led, renew: Callable[[], Awaitable[None]]) -> None:
        """Do nothing: there is no other node."""

    def offer(self, offer: Offer) -> None:
        """Record the offer for the status."""
        self._offer = offer

    async def shared(self) -> None:
        """Do nothing: there is no other node."""

    @property
    def knows_code(self) -> bool:
        """Return True: it is that of this node."""
        return True

    async def hand_over(self, mark: Callable[[], None]) -> None:
        """Do nothing: there is no other node."""

    def drain(self) -> None:
        """Do nothing."""

    async def drained(self) -> None:
        """Do nothing."""

    async def current(self) -> None:
        """Do nothing: only this node changes handlers."""

    async def spread(self) -> None:
        """Do nothing: there is no other node."""

    async def stop_following(self) -> None:
        """Do nothing."""

    async def close(self) -> None:
        """Do nothing."""

    def listen(
        self,
        running: Callable[[], dict[str, int]],
        offers_changed: Callable[[], None],  # noqa: ARG002 - the port's
        code_changed: CodeChanged,  # noqa: ARG002 - the port's
    ) -> None:
        """Set the function that returns how many attempts this node runs by pool."""
        self._running = running

    def offered(self, target: str) -> bool:  # noqa: ARG002 - the port's
        """Return False: there is no other node."""
        return False

    def status(self) -> CellStatus:
        """Return this node."""
        this = NodeStatus(
            id=self.id,
            name=self.name,
            role="all",
            version=__version__,
            leader=True,
            this=True,
            opened_at=self._opened_at,
            capacity=capacity(self._offer),
            running=self._running(),
            lag=0,
            code=self._offer.code,
        )
        return CellStatus(nodes=[this], term=0, led=True, problem=None)

    def broker(self) -> BrokerStatus | None:
        """Return None."""
        return None
