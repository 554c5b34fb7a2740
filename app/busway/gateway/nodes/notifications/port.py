"""The port: a node tells the others that there is something new to read."""

from __future__ import annotations

from typing import Protocol

import msgspec

LOOK = 1.0  # seconds between two looks at the cell without a notification
LARGEST = 512 * 1024  # bytes of a message, with its seal
KEPT = 200  # messages that are not sent or taken yet


class BrokerStatus(msgspec.Struct, kw_only=True):
    """The connection of this node to the broker.

    `url`: without secrets. `problem`: why it is not connected, None if it is. `sent`, `received`: messages.
    `ignored`: messages that are not from a node of this cell, by reason.
    """

    url: str
    connected: bool
    problem: str | None
    sent: int
    received: int
    ignored: dict[str, int]


class Notifications(Protocol):
    """Notifications between the nodes of a cell.

    Each arrives at most once at each other node, and they arrive in any order. All of them may be lost: then
    nodes notice news later, when they look by themselves.
    """

    def open(self, epoch: str, secret: bytes) -> None:
        """Begin to send and receive. `epoch` and `secret` are those of the cell."""

    def notify(self, message: bytes) -> None:
        """Notify the other nodes. It returns at once. If many are not sent yet, the oldest are not sent."""

    async def wait(self) -> bool:
        """Return when another node has notified, or False when it is time to look anyway.

        Raises:
            Unavailable: the database cannot be used, if notifications come from there.
        """

    def received(self) -> list[bytes]:
        """Return the messages since the last call, those of this node, too. Some of them may be lost."""

    async def close(self) -> None:
        """Send what is not sent yet, if that is possible, and stop."""

    def status(self) -> BrokerStatus | None:
        """Return the state of the broker, None if there is none."""
