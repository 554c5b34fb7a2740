"""Notifications over PostgreSQL: each commit has a `NOTIFY`."""

from __future__ import annotations

from busway.gateway.nodes.notifications.port import LOOK, BrokerStatus
from busway.gateway.store.port.cell import CellLink


class PostgresNotifications:
    """Implements `Notifications`.

    Args:
        link: to the cell, which must listen. No other call may use it during `wait`.
    """

    def __init__(self, link: CellLink) -> None:
        self._link = link

    def open(self, epoch: str, secret: bytes) -> None:
        """Do nothing: the link listens."""

    def notify(self, message: bytes) -> None:
        """Do nothing: the commit has notified."""

    async def wait(self) -> bool:
        """Return when there may be a new commit."""
        return await self._link.wait(LOOK)

    async def close(self) -> None:
        """Do nothing: the link is closed by its owner."""

    def status(self) -> BrokerStatus | None:
        """Return None."""
        return None
