"""Messages that only the nodes of a cell can make: a format version, an HMAC, and the content."""

from __future__ import annotations

import hashlib
import hmac

from busway.gateway.nodes.notifications.port import LARGEST

VERSION = b"\x01"
_PURPOSE = b"busway notifications "
_SEAL = 32  # bytes of the HMAC


class Seal:
    """Makes and checks messages.

    Args:
        epoch: of the cell.
        secret: of the cell.
    """

    def __init__(self, epoch: str, secret: bytes) -> None:
        self._key = hmac.digest(secret, _PURPOSE + epoch.encode(), hashlib.sha256)

    def close(self, content: bytes) -> bytes:
        """Return the message with this content."""
        return VERSION + self._digest(content) + content

    def open(self, message: bytes) -> bytes:
        """Return the content of a message.

        Raises:
            ValueError: no node of this cell and version made it. The text is the reason: `size`, `version` or
                `seal`.
        """
        if not 1 + _SEAL <= len(message) <= LARGEST:
            raise ValueError("size")
        if message[:1] != VERSION:
            raise ValueError("version")
        seal, content = message[1 : 1 + _SEAL], message[1 + _SEAL :]
        if not hmac.compare_digest(seal, self._digest(content)):
            raise ValueError("seal")
        return content

    def _digest(self, content: bytes) -> bytes:
        return hmac.digest(self._key, VERSION + content, hashlib.sha256)
