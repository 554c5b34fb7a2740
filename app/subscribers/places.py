"""Where a cursor is in the log, and pages of the log for `GET /v1/results`."""

from __future__ import annotations

import msgspec

from app.domain import cursor
from app.domain.cursor import Position
from app.errors import Gone
from app.store.base import Reader
from app.subscribers.encoding import encode_item
from app.subscribers.frames import EARLIEST, After, read_after
from app.subscribers.selection import Selection, predicate

READ_RESULTS = 500
READ_BYTES = 256 * 1024
PAGE_RESULTS = 10_000
PAGE_BYTES = 8 * 1024 * 1024


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


class Page(msgspec.Struct):
    """A page of results, oldest first; `next` is None at the newest, `cursor` goes on in any case."""

    items: list[msgspec.Raw]
    next: str | None
    cursor: str


async def results_page(
    reader: Reader,
    epoch: str,
    after: str | None,
    selection: Selection,
    limit: int,
) -> Page:
    """Read the results that follow `after` and match, at most `limit`; `after` None is from the oldest kept.

    The work for one page is bounded, so a page may be short or empty although there is a `next`.

    Raises:
        BadCursor: `after` is no cursor.
        Gone: its place cannot be honoured.
    """
    matches = predicate(selection)
    head, floor = await reader.places()
    position = await _begin(reader, epoch, EARLIEST if after is None else read_after(after), head, floor)
    items: list[msgspec.Raw] = []
    passed = size = 0
    while (
        position.number < head.number and passed < PAGE_RESULTS and size < PAGE_BYTES and len(items) < limit
    ):
        results = await reader.results(position.number, READ_RESULTS, READ_BYTES)
        if not results or results[0].number != position.number + 1:
            raise Gone("what followed that cursor is no longer kept: begin again at 'earliest'")
        for result in results:
            position = result.position
            passed += 1
            if matches(result):
                items.append(msgspec.Raw(encode_item(result, epoch)))
                size += len(items[-1])
                if len(items) == limit:
                    break
    text = cursor.encode(epoch, position)
    return Page(items, text if position.number < head.number else None, text)


async def _begin(reader: Reader, epoch: str, after: After, head: Position, floor: Position) -> Position:
    if after is None:
        return head
    if isinstance(after, str):
        return floor
    return await honour(reader, epoch, after)
