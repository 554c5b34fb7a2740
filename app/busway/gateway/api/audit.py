"""The route of the audit log."""

from __future__ import annotations

from typing import Annotated

import msgspec
from fastapi import APIRouter, Query, Response

from busway.contract import audit as shapes
from busway.contract.problems import BadField
from busway.domain import times
from busway.domain.pattern import PatternError, check_pattern, matcher
from busway.gateway.api import answers
from busway.gateway.api.access import needs
from busway.gateway.api.answers import After, Limit, when
from busway.gateway.api.describing import answers as described
from busway.gateway.api.stages import StagesDep
from busway.gateway.errors import Invalid
from busway.gateway.store.port.audit import ACTIONS, AuditQuery, AuditRecord

router = APIRouter(prefix="/v1/audit", tags=["audit"])


@router.get(
    "",
    summary="List the audit log",
    dependencies=needs("admin", unlimited=True),
    responses=described(shapes.AuditList, "A page of the audit log."),
)
async def list_audit(
    stages: StagesDep,
    actor: Annotated[str | None, Query(description="Only of this actor, such as `key:3`.")] = None,
    action: Annotated[
        str | None,
        Query(description="Only these actions: a name, or a pattern such as `key.*`."),
    ] = None,
    object: Annotated[str | None, Query(description="Only of the object with this name or number.")] = None,  # noqa: A002 - the answer's name
    since: Annotated[str | None, Query(description="Only at this time or later. RFC 3339.")] = None,
    until: Annotated[str | None, Query(description="Only before this time. RFC 3339.")] = None,
    limit: Limit = 100,
    after: After = None,
) -> Response:
    """Returns who changed what, newest first.

    An entry is stored in the transaction of the change, and kept for `--audit-retention`: 90 days by default.
    """
    query = AuditQuery(
        actor=actor,
        actions=_actions(action),
        object=object,
        since=_time("since", since),
        until=_time("until", until),
    )

    async def read(before: int | None, most: int, _max_bytes: int) -> list[tuple[int, shapes.AuditEntry]]:
        asked = msgspec.structs.replace(query, before=before)
        return [(record.id, _shown(record)) for record in await stages.reader.audit(asked, most)]

    return await answers.page(stages, read, answers.number(after), limit)


def _actions(action: str | None) -> list[str] | None:
    if action is None:
        return None
    try:
        check_pattern(action)
        found = [*filter(matcher((action,)), ACTIONS)]
    except PatternError as problem:
        raise _invalid("action", str(problem)) from None
    if not found:
        raise _invalid("action", f"no action matches {action!r}: there are {', '.join(ACTIONS)}")
    return found


def _time(name: str, value: str | None) -> int | None:
    try:
        return None if value is None else times.from_text(value)
    except ValueError as problem:
        raise _invalid(name, str(problem)) from None


def _invalid(name: str, message: str) -> Invalid:
    return Invalid.of([BadField(["query", name], message)])


def _shown(record: AuditRecord) -> shapes.AuditEntry:
    return shapes.AuditEntry(
        id=record.id,
        time=when(record.time),
        actor=record.actor,
        name=record.name,
        address=record.address,
        action=record.action,
        object=record.object,
        details=msgspec.json.decode(record.details) if record.details else {},
        node=record.node,
    )
