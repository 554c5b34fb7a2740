"""A cursor: a place in one particular result log, as an opaque string.

It names the log (its epoch), the number of the last result taken and a digest of that result,
so that a restored backup, another log or a position ahead of the head is told from a valid place.
"""

from __future__ import annotations

import re
import zlib

import msgspec

_FORM = re.compile(r"([0-9a-f]{16})-([0-9]{1,18})-([0-9a-f]{8})", re.ASCII)


class CursorError(ValueError):
    """The text is no cursor at all."""


class Position(msgspec.Struct, frozen=True):
    """A place in the result log: everything up to and with `number` was taken; 0 is before the first."""

    number: int
    digest: int


START = Position(0, 0)


def digest(number: int, run: int, attempt: int, time: int) -> int:
    """Digest one result from what its row holds; `time` in microseconds tells restored logs apart."""
    return zlib.crc32(b"%d.%d.%d.%d" % (number, run, attempt, time))


def encode(epoch: str, position: Position) -> str:
    """Write a position of the log `epoch` (16 hex digits) as a cursor."""
    return text(epoch, position.number, position.digest)


def text(epoch: str, number: int, digest: int) -> str:
    """Write what a position holds as a cursor, for who has no use for the position itself."""
    return f"{epoch}-{number}-{digest:08x}"


def decode(text: str) -> tuple[str, Position]:
    """Read a cursor into its epoch and position.

    Raises:
        CursorError: it is none.
    """
    form = _FORM.fullmatch(text)
    if form is None:
        raise CursorError("that is no cursor: use one that a receipt, an item or `subscribed` gave you")
    return form[1], Position(int(form[2]), int(form[3], 16))
