"""Notifications over PostgreSQL: each commit has a `NOTIFY`."""

from __future__ import annotations

import base64
import binascii
from collections import deque

from busway.gateway.nodes.notifications.port import KEPT, LOOK, BrokerStatus
from busway.gateway.store.port.cell import CellLink


class PostgresNotifications:
    """Implements `Notifications`.

    Args:
        link: to the cell, which must listen. No other call may use it during `wait`.
    """

    def __init__(self, link: CellLink) -> None:
        self._link = link
        self._received: deque[bytes] = deque(maxlen=KEPT)

    def open(self, epoch: str, secret: bytes) -> None:
        """Do nothing: the link listens."""

    def notify(self, message: bytes) -> None:
        """Do nothing: the commit has notified."""

    async def wait(self) -> bool:
        """Return when there may be a new commit."""
        heard = await self._link.wait(LOOK)
        self._received += map(_decoded, heard)
        return bool(heard)

    def received(self) -> list[bytes]:
        """Return the messages since the last call."""
        received = [*self._received]
        self._received.clear()
        return received

    async def close(self) -> None:
        """Do nothing: the link is closed by its owner."""

    def status(self) -> BrokerStatus | None:
        """Return None."""
        return None


def _decoded(text: str) -> bytes:
    """Return what a notification says of a commit, empty if it has only the number."""
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        return b""
