"""Pages of the result log for `GET /v1/results`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

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
from busway.gateway.subscribers.selection import Selection, predicate, scan, select

PAGE_RESULTS = 10_000  # results checked for one page
CORRELATED_RESULTS = 100_000  # likewise, of one correlation id: the database looks at them
PAGE_BYTES = 8 * 1024 * 1024


async def results_page(
    hub: Hub,
    wanted: Mapping[str, Any] | None = None,
    *,
    after: str | None = None,
    limit: int = 100,
    within: tuple[str, ...] = (),
) -> ItemList:
    """Return up to `limit` matching results after `after`, oldest first.

    `wanted` has the fields of `Selects`. `after` is a cursor, "earliest" (the default) or "latest". `within`
    is as in `Selection`. The work for one page is limited: a page with a `next` may be short or empty.

    Raises:
        BadCursor: `after` is not a cursor.
        Gone: results after it are no longer available.
        BadPattern, BadFilter: a type pattern or the filter is invalid.
        BadSubscription: another value is invalid.
    """
    selection = select(read_selects(wanted or {}), within=within)
    matches = predicate(selection)
    at = None if after is None else read_after(after)
    head, floor = await hub.reader.log_bounds()
    position = floor if after is None else await _begin(hub, at, head, floor)
    items: list[msgspec.Raw] = []
    passed = size = 0
    while (
        position.number < head.number and passed < PAGE_RESULTS and size < PAGE_BYTES and len(items) < limit
    ):
        entries = await _entries(hub, selection, position.number, READ_RESULTS)
        if not entries or entries[0].result.number != position.number + 1:
            if passed:
                break  # pruned meanwhile: this page has no gap, and the next page raises Gone
            if after is not None and not isinstance(at, str):
                raise Gone("the results after this cursor were deleted: start again after 'earliest'")
            _, position = await hub.reader.log_bounds()
            continue
        for entry in entries:
            position = entry.result.position
            passed += 1
            if matches(entry):
                items.append(msgspec.Raw(entry.item(hub.epoch)))
                size += len(items[-1])
                if len(items) == limit:
                    break
    text = cursor.encode(hub.epoch, position)
    more = text if position.number < head.number else None
    return ItemList(cast("list[Item]", items), more, text)  # already encoded


async def last_page(
    hub: Hub,
    wanted: Mapping[str, Any] | None = None,
    *,
    before: str | None = None,
    last: int,
    within: tuple[str, ...] = (),
) -> ItemList:
    """Return the newest `last` matching results up to `before`, a cursor or None, oldest first.

    `cursor` is where they end. The work for one page is limited: `next`, if there are older results, is the
    `before` of the page with them.

    Raises:
        BadCursor: `before` is not a cursor.
        Gone: it belongs to another log.
        BadPattern, BadFilter, BadSubscription: as from `results_page`.
    """
    selection = select(read_selects(wanted or {}), within=within)
    end, floor = await hub.reader.log_bounds()
    at = None if before is None else read_after(before)
    if isinstance(at, tuple):
        if at[0] != hub.epoch:
            raise Gone("the cursor belongs to another log: start again without `before`")
        end = min(end, at[1], key=lambda position: position.number)
    page = None
    if selection.correlationid is not None and selection.filter is None:
        page = await _last_correlated(hub, selection, selection.correlationid, (floor, end), last)
    return page or await _last_of_all(hub, selection, (floor, end), last)


async def _last_of_all(
    hub: Hub, selection: Selection, within: tuple[Position, Position], last: int
) -> ItemList:
    """Return the page, found by a look at all results before it."""
    matches, (floor, end) = predicate(selection), within
    items: list[msgspec.Raw] = []
    passed = size = 0
    most = step = min(READ_RESULTS, scan(selection))
    number = end.number
    while number > floor.number and passed < PAGE_RESULTS and size < PAGE_BYTES and len(items) < last:
        begin = max(number - step, floor.number)
        entries = await _entries(hub, selection, begin, number - begin)
        if not entries or entries[0].result.number != begin + 1:
            before_that, floor = floor, (await hub.reader.log_bounds())[1]
            if floor == before_that:
                break
            continue  # pruned meanwhile
        if entries[-1].result.number < number:  # they are large, or few may be checked at a time
            step = len(entries)
            continue
        step = min(most, 2 * step)
        for entry in reversed(entries):
            number = entry.result.number - 1
            passed += 1
            if matches(entry):
                items.append(msgspec.Raw(entry.item(hub.epoch)))
                size += len(items[-1])
                if len(items) == last:
                    break
    return await _ending(hub, items, (floor, end), number)


async def _last_correlated(
    hub: Hub, selection: Selection, correlationid: str, within: tuple[Position, Position], last: int
) -> ItemList | None:
    """Return the page of one correlation id, without a look at the results of all others before it.

    None: too many events have the id.
    """
    matches, (floor, end) = predicate(selection), within
    items: list[msgspec.Raw] = []
    passed = size = 0
    number = end.number
    while number > floor.number and passed < CORRELATED_RESULTS and size < PAGE_BYTES and len(items) < last:
        found = await hub.reader.correlated(correlationid, floor.number, number, READ_RESULTS, READ_BYTES)
        if found is None:
            return None
        number = found.reached
        passed += found.until - found.reached
        for result in found.results:
            entry = Entry(result)
            if matches(entry):
                items.append(msgspec.Raw(entry.item(hub.epoch)))
                size += len(items[-1])
                if len(items) == last:
                    number = result.number - 1
                    break
    return await _ending(hub, items, within, number)


async def _ending(
    hub: Hub, items: list[msgspec.Raw], within: tuple[Position, Position], number: int
) -> ItemList:
    """Return a page that ends at the second of two positions. `number`: of the newest result before it."""
    floor, end = within
    there = None if number <= floor.number else await hub.reader.position(number)
    older = None if there is None else cursor.encode(hub.epoch, there)
    return ItemList(cast("list[Item]", items[::-1]), older, cursor.encode(hub.epoch, end))


async def _entries(hub: Hub, selection: Selection, after: int, limit: int) -> list[Entry]:
    """Return the results after a number, with their events if the selection has a filter."""
    limit = min(limit, scan(selection))
    if selection.filter is None:
        return [Entry(result) for result in await hub.reader.results(after, limit, READ_BYTES)]
    found = await hub.reader.results_with_events(after, limit, READ_BYTES)
    return [Entry(result, event) for result, event in found]


def read_selects(wanted: Mapping[str, Any]) -> Selects:
    """Check which results are wanted.

    Raises:
        BadPattern, BadFilter, BadSubscription: as from `results_page`.
    """
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
