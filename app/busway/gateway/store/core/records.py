"""Conversion of rows to values. Column lists are in the order of their row's fields."""

from __future__ import annotations

from typing import Any

import msgspec
import sqlalchemy as sa

from busway.domain.breaker import Pause
from busway.domain.event import Event
from busway.domain.handler import Handler
from busway.domain.result import Result, ResultEvent
from busway.domain.run import Error, Run
from busway.domain.signing import Secret
from busway.domain.text import is_json_text
from busway.gateway.store.core.constructs import among, binary_payload, json_payload
from busway.gateway.store.core.schema import (
    KINDS,
    OUTCOMES,
    RUNNING,
    STATES,
    SUCCEEDED,
    attempts,
    events,
    handler_revisions,
    handlers,
    node_names,
    results,
    runs,
)
from busway.gateway.store.core.transaction import Snapshot
from busway.gateway.store.port.reader import AttemptRecord, RevisionRecord, RunningRun, RunRecord

Columns = tuple[sa.ColumnElement[Any], ...]

_decode = msgspec.json.Decoder().decode
_decode_pair = msgspec.json.Decoder(tuple[str, str]).decode
_decode_error = msgspec.json.Decoder(Error).decode
_decode_secrets = msgspec.json.Decoder(tuple[Secret, ...]).decode
_decode_attributes = msgspec.json.Decoder(dict[str, str | int | bool]).decode


def data_of(text: str | None, digits: str | None) -> bytes | None:
    """Return the payload from the columns of `json_payload` and `binary_payload`."""
    if text is not None:
        return text.encode(errors="surrogateescape")
    return None if digits is None else bytes.fromhex(digits)


def _sound(text: str | None) -> bool:
    """Return whether a payload can stand in an answer."""
    return text is None or is_json_text(text)


def _attributes(text: str) -> dict[str, str | int | bool]:
    try:
        return _decode_attributes(text)
    except ValueError:
        return {}


def _pair(text: str | None) -> tuple[str, str] | None:
    try:
        return _decode_pair(text) if text else None
    except ValueError:
        return None


class EventRow(msgspec.Struct, array_like=True):
    """`EVENT_COLUMNS`."""

    seq: int
    id: str
    source: str
    type: str
    subject: str | None
    time: int
    datacontenttype: str | None
    text: str | None
    digits: str | None
    attributes: str | None
    correlationid: str
    root: int
    depth: int


EVENT_COLUMNS: Columns = (
    events.c.seq,
    events.c.id,
    events.c.source,
    events.c.type,
    events.c.subject,
    events.c.time,
    events.c.datacontenttype,
    json_payload(events.c.data, events.c.binary),
    binary_payload(events.c.data, events.c.binary),
    events.c.attributes,
    sa.func.coalesce(events.c.correlationid, events.c.id),
    sa.func.coalesce(events.c.root, events.c.seq),
    sa.func.coalesce(events.c.depth, sa.literal_column("0")),
)


def event(row: EventRow) -> Event:
    """Build an event as the API shows it: data that is not JSON is None."""
    stored = stored_event(row)
    return stored if _sound(row.text) else msgspec.structs.replace(stored, data=None)


def stored_event(row: EventRow) -> Event:
    """Build an event with its data as it is stored."""
    return Event(
        seq=row.seq,
        id=row.id,
        source=row.source,
        type=row.type,
        subject=row.subject,
        time=row.time,
        datacontenttype=row.datacontenttype,
        data=data_of(row.text, row.digits),
        binary=row.digits is not None,
        attributes=_attributes(row.attributes) if row.attributes else {},
        correlationid=row.correlationid,
        root=row.root,
        depth=row.depth,
    )


class ChildRow(EventRow, array_like=True):
    """`EVENT_COLUMNS` and the run that published the event."""

    parent: int


class WaitingRow(EventRow, array_like=True):
    """`WAITING_COLUMNS`: a run with its event."""

    run: int
    handler: int
    attempt: int
    lost: int
    granted: int
    priority: int
    due: int | None
    expires_at: int | None
    key: str | None
    token: int | None
    available_at: int | None
    created_at: int
    replay: int | None


WAITING_COLUMNS: Columns = (
    *EVENT_COLUMNS,
    runs.c.id,
    runs.c.handler,
    runs.c.attempt,
    runs.c.lost,
    runs.c.granted,
    runs.c.priority,
    runs.c.due,
    runs.c.expires_at,
    runs.c.partitionkey,
    runs.c.token,
    runs.c.available_at,
    runs.c.created_at,
    runs.c.replay,
)


class RunningRow(WaitingRow, array_like=True):
    """`RUNNING_COLUMNS`: a running run with its event."""

    pool: str | None
    node: int | None


RUNNING_COLUMNS: Columns = (*WAITING_COLUMNS, runs.c.pool, runs.c.node)


def running_run(row: RunningRow) -> RunningRun:
    """Build a running run."""
    before = msgspec.structs.replace(waiting_run(row), attempt=row.attempt - 1, fence=0)
    return RunningRun(before, row.attempt, row.token or 0, row.pool or "process", row.node)


def waiting_run(row: WaitingRow) -> Run:
    """Build a waiting run."""
    return Run(
        id=row.run,
        event=stored_event(row),
        handler=row.handler,
        attempt=row.attempt,
        lost=row.lost,
        granted=row.granted,
        priority=row.priority,
        due=row.due,
        since=max(row.due or 0, row.available_at or row.created_at),
        expires_at=row.expires_at,
        key=row.key,
        fence=fence(row.token),
        replay=row.replay or 0,
    )


def fence(token: int | None) -> int:
    """Return the fence of a waiting run: a negative token, which a manual retry stores. Otherwise 0."""
    return min(token or 0, 0)


_these = (
    sa.select(*WAITING_COLUMNS)
    .join(events, events.c.seq == runs.c.event)
    .where(among(runs.c.id, sa.bindparam("ids")))
)


def read_waiting(snapshot: Snapshot, ids: list[int]) -> list[Run]:
    """Return these waiting runs, in the order of `ids`."""
    known = {row.run: row for row in snapshot.fetch(_these, WaitingRow, {"ids": ids})}
    return [waiting_run(known[id_]) for id_ in ids if id_ in known]


class RunRow(msgspec.Struct, array_like=True):
    """`RUN_COLUMNS`."""

    id: int
    event: int
    handler: str
    revision: int | None
    state: int
    attempt: int
    max_attempts: int | None
    available_at: int
    created_at: int
    finished_at: int | None
    error: str | None
    replay: int | None


RUN_COLUMNS: Columns = (
    runs.c.id,
    runs.c.event,
    handlers.c.name,
    runs.c.revision,
    runs.c.state,
    runs.c.attempt,
    runs.c.max_attempts,
    sa.func.coalesce(runs.c.due, runs.c.available_at, runs.c.created_at),
    runs.c.created_at,
    runs.c.finished_at,
    runs.c.error,
    sa.func.abs(runs.c.replay),
)


def run(row: RunRow) -> RunRecord:
    """Build a run as the API shows it."""
    return RunRecord(
        id=row.id,
        event=row.event,
        handler=row.handler,
        revision=row.revision,
        state=STATES[row.state],
        attempt=row.attempt,
        max_attempts=row.max_attempts,
        available_at=row.available_at,
        created_at=row.created_at,
        finished_at=row.finished_at,
        error=error(row.error),
        replay=row.replay,
    )


def error(text: str | None) -> Error | None:
    """Decode an error, with or without its traceback. None if it cannot be read."""
    try:
        return _decode_error(text) if text else None
    except ValueError:
        return None


class AttemptRow(msgspec.Struct, array_like=True):
    """`ATTEMPT_COLUMNS`. With `OWN_ATTEMPT_COLUMNS`, `outcome` is the state of the run."""

    attempt: int
    outcome: int
    revision: int
    started_at: int
    finished_at: int | None
    pool: str
    worker: int | None
    cpu_time: float | None
    wall_time: float | None
    peak_memory: int | None
    node: str | None
    error: str | None = None
    log: str | None = None
    published: str | None = None


def _shown(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    """Return a column of an attempt: nodes by name, and no infinities, which JSON cannot represent."""
    if column.name == "node":
        return sa.select(node_names.c.name).where(node_names.c.id == column).scalar_subquery()
    if column.name not in {"cpu_time", "wall_time"}:
        return column
    return sa.case((sa.func.abs(column) < sa.literal_column("1e300"), column))


ATTEMPT_COLUMNS: Columns = tuple(_shown(attempts.c[name]) for name in AttemptRow.__struct_fields__)
OWN_ATTEMPT_COLUMNS: Columns = tuple(
    _shown(runs.c[name.replace("outcome", "state")]) for name in AttemptRow.__struct_fields__[:11]
)


def attempt(row: AttemptRow) -> AttemptRecord:
    """Build an attempt from its row in `attempts`."""
    return _attempt(row, OUTCOMES[row.outcome].value)


def own_attempt(row: AttemptRow) -> AttemptRecord:
    """Build an attempt from its run's row: a running one, or a first one that succeeded."""
    return _attempt(row, None if row.outcome == RUNNING else STATES[SUCCEEDED].value)


def _attempt(row: AttemptRow, outcome: str | None) -> AttemptRecord:
    return AttemptRecord(
        attempt=row.attempt,
        outcome=outcome,
        revision=row.revision,
        started_at=row.started_at,
        finished_at=row.finished_at if outcome else None,
        pool=row.pool,
        worker=row.worker,
        node=row.node,
        cpu_time=row.cpu_time,
        wall_time=row.wall_time,
        peak_memory=row.peak_memory,
        error=error(row.error),
        log=row.log,
        published=row.published,
    )


class ResultRow(msgspec.Struct, array_like=True):
    """`RESULT_COLUMNS`."""

    number: int
    kind: int
    handler: str
    revision: int
    run: int
    attempt: int
    index: int | None
    text: str | None
    digits: str | None
    error: str | None
    completes: str | None
    time: int
    event: int
    id: str
    type: str
    source: str
    subject: str | None
    correlationid: str
    replay: int | None


RESULT_COLUMNS: Columns = (
    results.c.number,
    results.c.kind,
    handlers.c.name,
    results.c.revision,
    results.c.run,
    results.c.attempt,
    results.c.idx,
    json_payload(results.c.data, results.c.binary),
    binary_payload(results.c.data, results.c.binary),
    results.c.error,
    results.c.completes,
    results.c.time,
    events.c.seq,
    events.c.id,
    events.c.type,
    events.c.source,
    events.c.subject,
    sa.func.coalesce(events.c.correlationid, events.c.id),
    results.c.replay,
)


def result(row: ResultRow) -> Result:
    """Build a result."""
    return Result(
        number=row.number,
        kind=KINDS[row.kind],
        event=ResultEvent(row.event, row.id, row.type, row.source, row.subject, row.correlationid),
        handler=row.handler,
        revision=row.revision,
        run=row.run,
        attempt=row.attempt,
        index=row.index,
        data=data_of(row.text, row.digits) if _sound(row.text) else None,
        binary=row.digits is not None,
        error=_pair(row.error),
        completes=row.completes.encode() if row.completes else None,
        replay=row.replay or 0,
        time=row.time,
    )


class HandlerRow(msgspec.Struct, array_like=True):
    """`HANDLER_COLUMNS`."""

    id: int
    name: str
    revision: int
    declared: str | None
    overrides: str
    file_digest: str
    missing: int
    deleted: int
    created_at: int
    updated_at: int
    secrets: str | None
    pause: str | None


HANDLER_COLUMNS: Columns = tuple(handlers.c[name] for name in HandlerRow.__struct_fields__)


def handler(row: HandlerRow) -> Handler:
    """Build a handler."""
    return Handler(
        id=row.id,
        name=row.name,
        revision=row.revision,
        declared=_decode(row.declared) if row.declared else None,
        overrides=_decode(row.overrides),
        file_digest=row.file_digest,
        missing=bool(row.missing),
        deleted=bool(row.deleted),
        created_at=row.created_at,
        updated_at=row.updated_at,
        secrets=_decode_secrets(row.secrets) if row.secrets else (),
        pause=msgspec.json.decode(row.pause, type=Pause) if row.pause else None,
    )


class RevisionRow(msgspec.Struct, array_like=True):
    """`REVISION_COLUMNS`."""

    revision: int
    created_at: int
    fields: str
    file_digest: str


REVISION_COLUMNS: Columns = tuple(handler_revisions.c[name] for name in RevisionRow.__struct_fields__)


def revision(row: RevisionRow) -> RevisionRecord:
    """Build a revision of a handler."""
    return RevisionRecord(
        revision=row.revision,
        created_at=row.created_at,
        fields=_decode(row.fields),
        file_digest=row.file_digest,
    )
