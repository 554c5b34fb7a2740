"""How values of the store look over HTTP, and how lists are paged."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from fastapi import Query, Request, Response

from busway.domain import times
from busway.domain.run import Error
from busway.gateway.errors import BadRequest, Invalid
from busway.gateway.store.port.reader import AttemptRecord, RunRecord

Limit = Annotated[int, Query(ge=1, le=1000, description="the most items of one page")]
After = Annotated[str | None, Query(description="`next` of the page before")]

_encode = msgspec.json.Encoder().encode


def json(value: Any, status: int = 200) -> Response:
    """Answer a value as JSON."""
    return Response(_encode(value), status_code=status, media_type="application/json")


def page(items: list[Any], next_: str | None) -> Response:
    """Answer one page of a list."""
    return json({"items": items, "next": next_})


def number(after: str | None) -> int | None:
    """Read an `after` that is a number.

    Raises:
        BadRequest: it is none.
    """
    if after is None:
        return None
    if not (after.isascii() and after.isdigit() and len(after) < 19):
        raise BadRequest(f"after is the `next` of the page before, not {after!r}")
    return int(after)


async def known_parameters(request: Request) -> None:
    """Refuse parameters that the operation does not have: a misspelt one would silently not narrow a list.

    Raises:
        Invalid: there is one.
    """
    if not (request.query_params and request.url.path.startswith("/v1/")):
        return  # health checks may carry what they like
    known = _query_names(request.scope["route"].dependant)
    unknown = sorted(request.query_params.keys() - known)
    if unknown:
        detail = f"there is no parameter {unknown[0]!r} here: {', '.join(sorted(known)) or 'it takes none'}"
        raise Invalid(detail, errors=[{"loc": ["query", unknown[0]], "msg": "unknown"}])


def _query_names(dependant: Any) -> set[str]:
    names = {parameter.alias for parameter in dependant.query_params}
    return names.union(*map(_query_names, dependant.dependencies))


def when(us: int | None) -> str | None:
    """Write a time, or None."""
    return None if us is None else times.to_text(us)


def error(value: Error | None) -> dict[str, Any] | None:
    """Return why an attempt failed."""
    return None if value is None else msgspec.to_builtins(msgspec.structs.asdict(value))


def run(record: RunRecord, max_attempts: int) -> dict[str, Any]:
    """Return a run; `max_attempts` holds until an attempt ended."""
    return {
        "id": record.id,
        "event": record.event,
        "handler": record.handler,
        "revision": record.revision,
        "state": record.state,
        "attempt": record.attempt,
        "max_attempts": record.max_attempts or max_attempts,
        "available_at": when(record.available_at),
        "created_at": when(record.created_at),
        "finished_at": when(record.finished_at),
        "error": error(record.error),
        "replay": record.replay,
    }


def attempt(record: AttemptRecord) -> dict[str, Any]:
    """Return an attempt."""
    return {
        **msgspec.structs.asdict(record),
        "started_at": when(record.started_at),
        "finished_at": when(record.finished_at),
        "error": error(record.error),
    }
