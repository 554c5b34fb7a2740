"""A cursor: a position in one result log, as an opaque string.

It contains the log's epoch, and number and digest of the last result that was taken. So a valid cursor is
distinguished from one of another log, of a restored backup or ahead of the head.
"""

from __future__ import annotations

import re
import zlib

import msgspec

_FORM = re.compile(r"([0-9a-f]{16})-([0-9]{1,18})-([0-9a-f]{8})", re.ASCII)


class CursorError(ValueError):
    """The text does not have the form of a cursor."""


class Position(msgspec.Struct, frozen=True):
    """A position in the result log, just after result `number`; 0 is before the first result."""

    number: int
    digest: int


START = Position(0, 0)


def digest(number: int, run: int, attempt: int, time: int) -> int:
    """Return the digest of a result. `time` (microseconds) makes it differ after a restored backup."""
    return zlib.crc32(b"%d.%d.%d.%d" % (number, run, attempt, time))


def encode(epoch: str, position: Position) -> str:
    """Return the cursor for a position in the log `epoch` (16 hex digits)."""
    return text(epoch, position.number, position.digest)


def text(epoch: str, number: int, digest: int) -> str:
    """Return the cursor for a number and digest, without building a `Position`."""
    return f"{epoch}-{number}-{digest:08x}"


def decode(text: str) -> tuple[str, Position]:
    """Return the epoch and position of a cursor.

    Raises:
        CursorError: the text is not a cursor.
    """
    form = _FORM.fullmatch(text)
    if form is None:
        raise CursorError("malformed cursor: use the cursor of an item, a receipt or a `subscribed` frame")
    return form[1], Position(int(form[2]), int(form[3], 16))
