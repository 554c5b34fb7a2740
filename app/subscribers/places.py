"""Whether the place of a cursor can be honoured."""

from __future__ import annotations

from app.domain.cursor import Position
from app.errors import Gone
from app.store.base import Reader

READ_RESULTS = 500
READ_BYTES = 256 * 1024


async def honour(reader: Reader, epoch: str, after: tuple[str, Position]) -> Position:
    """Return the place of a cursor if results can be taken from there on.

    Raises:
        Gone: another log, ahead of it, pruned, or not the result that stood there.
    """
    of, position = after
    if of != epoch:
        raise Gone("that cursor is of another log: begin again at 'earliest' or 'latest'")
    head, floor = await reader.places()
    if position in (head, floor):
        return position
    if position.number < floor.number:
        raise Gone("what followed that cursor is no longer kept: begin again at 'earliest' or 'latest'")
    if position.number > head.number or await reader.position(position.number) != position:
        raise Gone("that cursor is of another state of this log: begin again at 'earliest' or 'latest'")
    return position
