"""Pages of the result log for `GET /v1/results`."""

from __future__ import annotations

from typing import cast

import msgspec

from busway.contract import checking
from busway.contract.frames import Selects
from busway.contract.results import Item, ItemList
from busway.domain import cursor
from busway.domain.cursor import Position
from busway.gateway.errors import Gone
from busway.gateway.subscribers.encoding import Entry
from busway.gateway.subscribers.frames import After, read_after, refusal
from busway.gateway.subscribers.hub import READ_BYTES, READ_RESULTS, Hub, resolve
from busway.gateway.subscribers.selection import predicate, select

PAGE_RESULTS = 10_000  # results checked for one page
PAGE_BYTES = 8 * 1024 * 1024


async def results_page(
    hub: Hub,
    *,
    after: str | None = None,
    types: list[str] | None = None,
    handlers: list[str] | None = None,
    kinds: list[str] | None = None,
    limit: int = 100,
) -> ItemList:
    """Return up to `limit` matching results after `after`.

    `after` is a cursor, "earliest" (the default) or "latest". The work for one page is limited: a page with a
    `next` may be short or empty.

    Raises:
        BadCursor: `after` is not a cursor.
        Gone: results after it are no longer available.
        BadPattern: one of `types` is invalid.
        BadSubscription: another value is invalid.
    """
    matches = predicate(select(_read({"types": types, "handlers": handlers, "kinds": kinds})))
    at = None if after is None else read_after(after)
    head, floor = await hub.reader.log_bounds()
    position = floor if after is None else await _begin(hub, at, head, floor)
    items: list[msgspec.Raw] = []
    passed = size = 0
    while (
        position.number < head.number and passed < PAGE_RESULTS and size < PAGE_BYTES and len(items) < limit
    ):
        results = await hub.reader.results(position.number, READ_RESULTS, READ_BYTES)
        if not results or results[0].number != position.number + 1:
            if passed:
                break  # pruned meanwhile: this page has no gap, and the next page raises Gone
            if after is not None and not isinstance(at, str):
                raise Gone("the results after this cursor were deleted: start again after 'earliest'")
            _, position = await hub.reader.log_bounds()
            continue
        for result in results:
            position = result.position
            passed += 1
            entry = Entry(result)
            if matches(entry):
                items.append(msgspec.Raw(entry.item(hub.epoch)))
                size += len(items[-1])
                if len(items) == limit:
                    break
    text = cursor.encode(hub.epoch, position)
    more = text if position.number < head.number else None
    return ItemList(cast("list[Item]", items), more, text)  # already encoded


def _read(wanted: dict[str, list[str] | None]) -> Selects:
    try:
        return checking.read(wanted, Selects, ("query",))
    except checking.Mismatch as problem:
        raise refusal(problem.fields) from None


async def _begin(hub: Hub, after: After, head: Position, floor: Position) -> Position:
    if after is None:
        return head
    if isinstance(after, str):
        return floor
    return await resolve(hub.reader, hub.epoch, after)
