"""Converts records of the store into answers, and pages lists."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from itertools import chain
from typing import Annotated, Any, overload

import msgspec
from fastapi import Query, Request, Response

from busway.contract import runs as shapes
from busway.contract.checking import MOST
from busway.contract.problems import BadField
from busway.domain import times
from busway.domain.run import Error
from busway.gateway.api.problems import bad_field
from busway.gateway.api.stages import Stages
from busway.gateway.errors import BadRequest, Invalid
from busway.gateway.store.port.reader import AttemptRecord, RunRecord

Limit = Annotated[int, Query(ge=1, le=1000, description="Maximum number of items per page.")]
After = Annotated[str | None, Query(description="`next` of the previous page.")]

PAGE_BYTES = 8 * 1024 * 1024  # of a list, a tree or an object with its parts; one item may be larger
READ_BYTES = 1024 * 1024  # of one read for them
READ_ROWS = 1_000  # likewise
LOOKED_AT = 10_000  # items that are read for a page that leaves some out

encode = msgspec.json.Encoder().encode
Read = Callable[[int | None, int, int], Awaitable[list[tuple[int, Any]]]]
"""Reads items before a number, at most so many and so many bytes; returns each with its number."""


async def page(stages: Stages, read: Read, before: int | None, limit: int) -> Response:
    """Return a page of items, newest first. It is read and encoded in parts.

    Raises:
        Unavailable: too many answers are under way.
    """
    items: list[bytes] = []
    size = 0
    with stages.answers.hold(PAGE_BYTES):
        while len(items) < limit and size < PAGE_BYTES:
            wanted, most = limit - len(items), min(READ_BYTES, PAGE_BYTES - size)
            found = await read(before, wanted, most)
            encoded = [encode(item) for _, item in found]
            part = sum(map(len, encoded))
            items += encoded
            size += part
            if len(found) < wanted and part < most:
                before = None  # that was the last one
                break
            before = found[-1][0]
        return _listed(items, before)


async def narrowed_page(
    stages: Stages,
    read: Read,
    seen: Callable[[list[tuple[int, Any]]], Awaitable[set[int]]],
    before: int | None,
    limit: int,
) -> Response:
    """Return a page of those items whose numbers `seen` returns, newest first.

    It looks at 10,000 items at most: a page with a `next` may be short or empty.

    Raises:
        Unavailable: too many answers are under way.
    """
    items: list[bytes] = []
    size = looked = 0
    with stages.answers.hold(PAGE_BYTES):
        while len(items) < limit and size < PAGE_BYTES and looked < LOOKED_AT:
            found = await read(before, READ_ROWS, READ_BYTES)
            looked += READ_ROWS
            if not found:
                before = None
                break
            wanted = await seen(found)
            for number, item in found:
                before = number
                if number in wanted:
                    items.append(encode(item))
                    size += len(items[-1])
                    if len(items) == limit or size >= PAGE_BYTES:
                        break
        return _listed(items, before)


def _listed(items: list[bytes], before: int | None) -> Response:
    more = b"null" if before is None else b'"%d"' % before
    body = b'{"items":[%b],"next":%b}' % (b",".join(items), more)
    return Response(body, media_type="application/json")


def part(stages: Stages, items: Sequence[Any], limit: int, key: Callable[[Any, int], str]) -> Response:
    """Return a page of items that are in memory.

    Args:
        stages: the gateway.
        items: all that follow, in order.
        limit: maximum number of items.
        key: returns the `after` for the page behind an item, given the item and how many items the page has.

    Raises:
        Unavailable: too many answers are under way.
    """
    encoded: list[bytes] = []
    size = 0
    with stages.answers.hold(PAGE_BYTES):
        for item in items[:limit]:
            if size > PAGE_BYTES:
                break
            encoded.append(encode(item))
            size += len(encoded[-1])
        count = len(encoded)
        more = encode(key(items[count - 1], count)) if count < len(items) else b"null"
        body = b'{"items":[%b],"next":%b}' % (b",".join(encoded), more)
        return Response(body, media_type="application/json")


def json(value: Any, status: int = 200) -> Response:
    """Return a JSON response."""
    return Response(encode(value), status_code=status, media_type="application/json")


def number(after: str | None) -> int | None:
    """Parse an `after` that is a number.

    Raises:
        BadRequest: it is not a number.
    """
    if after is None:
        return None
    if not (after.isascii() and after.isdigit() and len(after) < 19):
        raise BadRequest(f"after must be the `next` of the previous page, not {after!r}")
    return int(after)


_NUL = "a NUL character (%00) cannot be part of a name"


async def known_parameters(request: Request) -> None:
    """Refuse unknown query parameters: a misspelt filter would silently return the whole list.

    Raises:
        Invalid: a parameter is unknown, or has a NUL character, which text of PostgreSQL cannot have.
            `errors` also has those that are invalid.
    """
    given = [("path", *pair) for pair in request.path_params.items()]
    given += [("query", *pair) for pair in request.query_params.multi_items()]
    if nul := [BadField([where, name], _NUL) for where, name, value in given if "\0" in str(value)]:
        raise Invalid.of(nul[:MOST])
    if not (request.query_params and request.url.path.startswith("/v1/")):
        return  # health checks may send any parameter
    dependant = request.scope["route"].dependant
    known = {field.alias: field for field in _query_fields(dependant)}
    unknown = sorted(request.query_params.keys() - known)
    if not unknown:
        return  # FastAPI reports those that are invalid
    use = f"use {', '.join(sorted(known))}" if known else "this operation has none"
    bad = [BadField(["query", name], f"unknown parameter {name!r}: {use}") for name in unknown[:MOST]]
    for field in dependant.path_params:
        bad += _bad_values(field, ["path", field.alias], [request.path_params[field.alias]])
    for name, field in known.items():
        if name in request.query_params:
            bad += _bad_values(field, ["query", name], request.query_params.getlist(name))
    raise Invalid.of(bad)


def _query_fields(dependant: Any) -> list[Any]:
    return [*dependant.query_params, *chain(*map(_query_fields, dependant.dependencies))]


def _bad_values(field: Any, loc: list[str | int], values: list[str]) -> list[BadField]:
    """Return what is wrong with a parameter, which is a list of values or one value."""
    for value in (values, values[-1]):
        _, errors = field.validate(value)
        if not errors:
            return []
    return [bad_field(loc, error) for error in errors]


@overload
def when(us: int) -> str: ...
@overload
def when(us: int | None) -> str | None: ...
def when(us: int | None) -> str | None:
    """Return a time as RFC 3339 text, or None."""
    return None if us is None else times.to_text(us)


def end(us: int | None) -> str | None:
    """Return when something ended as RFC 3339 text, or None if it has not, or the time cannot be shown."""
    return None if us is None or not times.can_show(us) else times.to_text(us)


def error(value: Error | None) -> shapes.Error | None:
    """Return the error of an attempt."""
    return None if value is None else shapes.Error(value.type, value.message, value.traceback)


def run(record: RunRecord, max_attempts: int) -> shapes.Run:
    """Return a run. `max_attempts` applies until the first attempt ends."""
    return shapes.Run(**_run_fields(record, max_attempts))


def run_detail(record: RunRecord, max_attempts: int, attempts: list[AttemptRecord]) -> shapes.RunDetail:
    """Return a run with its attempts. Its error has the traceback of the attempt that it is from."""
    fields, shown = _run_fields(record, max_attempts), list(map(attempt, attempts))
    error = fields["error"]
    if error is not None:
        for each in reversed(shown):
            if each.error is not None and (each.error.type, each.error.message) == (
                error.type,
                error.message,
            ):
                error.traceback = each.error.traceback
                break
    return shapes.RunDetail(**fields, attempts=shown)


def _run_fields(record: RunRecord, max_attempts: int) -> dict[str, Any]:
    return {
        **msgspec.structs.asdict(record),
        "max_attempts": record.max_attempts or max_attempts,
        "available_at": when(record.available_at),
        "created_at": when(record.created_at),
        "finished_at": end(record.finished_at),
        "error": error(record.error),
    }


def attempt(record: AttemptRecord) -> shapes.Attempt:
    """Return an attempt."""
    fields = {
        **msgspec.structs.asdict(record),
        "started_at": when(record.started_at),
        "finished_at": end(record.finished_at),
        "error": error(record.error),
        "published": None if record.published is None else msgspec.json.decode(record.published),
    }
    return shapes.Attempt(**fields)
