"""Changes of runs outside of attempts: cancel, expire, manual retry, rescue after a crash."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from busway.domain.result import Kind
from busway.domain.run import Error, Outcome
from busway.gateway.store.core import completions, publishing, settling, transaction
from busway.gateway.store.core.ledger import Ledger, RunRow, brief
from busway.gateway.store.core.records import read_waiting
from busway.gateway.store.core.schema import CANCELLED, DEAD, RUNNING, STATE_CODES, WAITING, handlers, runs
from busway.gateway.store.port.operations import (
    Cancel,
    CancelWaiting,
    Expire,
    Lead,
    NewResult,
    Publish,
    Report,
    Retried,
    Retry,
    RetryDead,
)


def _of(handler: Any) -> Any:
    """Match runs of a handler. The unary plus keeps the database from scanning all runs of the handler."""
    return sa.literal_column("+runs.handler") == handler


_waiting = sa.text(WAITING)
_at_once = sa.select(runs.c.id).where(
    runs.c.handler == sa.bindparam("handler"), _waiting, runs.c.due.is_(None)
)
_later = sa.select(runs.c.id).where(
    runs.c.handler == sa.bindparam("handler"), _waiting, runs.c.due.is_not(None)
)
_expired = (
    sa.select(runs.c.id)
    .where(_waiting, sa.text("attempt = 0"), runs.c.expires_at <= sa.bindparam("now"))
    .order_by(runs.c.expires_at)
)
_deleted = sa.select(handlers.c.id).where(handlers.c.deleted == 1)
_ended = (
    sa.select(runs.c.id)
    .where(sa.text("runs.state >= 4"), runs.c.state == sa.bindparam("state"))
    .where(runs.c.id > sa.bindparam("after"))
    .where(runs.c.handler.not_in(_deleted))
    .order_by(runs.c.id)
)


def cancel(ledger: Ledger, operation: Cancel) -> list[int]:
    """Cancel the unfinished ones of the runs."""
    return cancel_runs(ledger, ledger.load(operation.runs), operation.error, operation.now)


def cancel_waiting(ledger: Ledger, operation: CancelWaiting) -> list[int]:
    """Cancel waiting runs of one handler, first those without a due time."""
    which = {"handler": operation.handler}
    ids = _ids(ledger, _at_once.limit(operation.limit), which)
    if len(ids) < operation.limit:
        ids += _ids(ledger, _later.limit(operation.limit - len(ids)), which)
    return cancel_runs(ledger, ledger.load(ids), operation.error, operation.now)


def expire(ledger: Ledger, operation: Expire) -> list[int]:
    """Cancel runs that had no attempt before they expired."""
    most = operation.limit + len(operation.spare)
    ids = _ids(ledger, _expired.limit(most), {"now": operation.now})
    spared = set(operation.spare)
    ids = [id_ for id_ in ids if id_ not in spared][: operation.limit]
    return cancel_runs(ledger, ledger.load(ids), operation.error, operation.now)


def retry(ledger: Ledger, operation: Retry) -> Retried:
    """Make dead, cancelled and retryable runs available again, except those of deleted handlers."""
    known = ledger.load(operation.runs)
    deleted = set(_ids(ledger, _deleted, {}))
    retried = [run for run in known if run.state in _RETRIED and run.handler not in deleted]
    brought_forward = [run.id for run in retried if run.state < RUNNING]
    ids = _retry(ledger, retried, operation.now)
    ledger.flush()
    return Retried(ids, read_waiting(ledger.transaction, brought_forward) if brought_forward else [])


def retry_ended(ledger: Ledger, operation: RetryDead) -> list[int]:
    """Make dead or cancelled runs available again, except those of deleted handlers."""
    found = _ended.limit(operation.limit)
    if operation.handler is not None:
        found = found.where(_of(operation.handler))
    ids = _ids(ledger, found, {"state": STATE_CODES[operation.state], "after": operation.after})
    return _retry(ledger, ledger.load(ids), operation.now)


def lead(ledger: Ledger, operation: Lead) -> list[int] | None:
    """Make a node the leader. Count attempts as lost that no node has any more."""
    ledger.flush()
    if not ledger.transaction.take_lead(operation):
        return None
    publishing.publish(ledger, Publish(events=operation.notices))
    lost = ledger.load(ledger.transaction.lost_runs())
    for run in lost:
        _lose(ledger, run, operation)
    return [run.id for run in lost]


_RETRIED = (1, CANCELLED, DEAD)


def _ids(ledger: Ledger, query: sa.Select[Any], parameters: dict[str, int]) -> list[int]:
    ledger.flush()
    return transaction.ids(ledger.transaction.fetch(query, tuple[int], parameters))


def cancel_runs(ledger: Ledger, found: Iterable[RunRow], error: Error | None, now: int) -> list[int]:
    """Cancel the unfinished ones of these runs. Return their ids."""
    cancelled = [run for run in found if run.state <= RUNNING]
    revisions = _revisions(ledger)
    for run in cancelled:
        if run.state == RUNNING:
            if run.node is not None:
                ledger.transaction.lingers(run.id, run.node)
            _record(ledger, run, Outcome.CANCELLED, error, now)
        _end(ledger, run, CANCELLED, Kind.CANCELLED, error, now, revisions[run.handler])
    return [run.id for run in cancelled]


def _retry(ledger: Ledger, found: Iterable[RunRow], now: int) -> list[int]:
    retried = []
    for run in found:
        if run.state >= CANCELLED:
            completions.reopen(ledger, run)
            run.token = -now  # a fence: outcomes of earlier attempts are refused
        ledger.change(run, 0)
        run.granted, run.due = run.attempt - run.lost, None
        run.available_at, run.finished_at = now, None
        retried.append(run.id)
    # A run that was retried manually is not ordered by its partition key.
    ledger.transaction.clear_partition_keys(retried)
    return retried


def _lose(ledger: Ledger, run: RunRow, operation: Lead) -> None:
    run.lost += 1
    error = Error("Lost", f"the gateway stopped while attempt {run.attempt} was running")
    _record(ledger, run, Outcome.LOST, error, operation.now)
    if run.lost >= operation.max_losses:
        error = Error("Lost", f"{run.lost} attempts were lost because their process died")
        _end(ledger, run, DEAD, Kind.DEAD, error, operation.now, run.revision or 1)
        ledger.errors[run.handler] = brief(error) or ""
        return
    new = NewResult(kind=Kind.LOST, error=(error.type, error.message), time=operation.now)
    ledger.add_result(run, new, run.revision or 1, run.attempt)
    ledger.change(run, 0)
    run.due, run.available_at, run.token = None, operation.now, None


def _end(
    ledger: Ledger, run: RunRow, state: int, kind: Kind, error: Error | None, now: int, revision: int
) -> None:
    completes = completions.step(ledger, run, state, 0)
    ledger.change(run, state)
    run.finished_at, run.error, run.token = now, brief(error), None
    new = NewResult(kind=kind, error=(error.type, error.message) if error else None, time=now)
    run.last_result = ledger.add_result(run, new, revision, run.attempt, completes)


def _record(ledger: Ledger, run: RunRow, outcome: Outcome, error: Error | None, now: int) -> None:
    """Store the attempt of a run that is marked as running, with what is known of it."""
    report = Report(
        outcome=outcome,
        revision=run.revision or 1,
        started_at=run.started_at or now,
        finished_at=now,
        pool=run.pool or "process",
        worker=run.worker,
        error=error,
    )
    settling.record(ledger, run.id, run.attempt, report, run.node)
    settling.forget_attempt(run)


def _revisions(ledger: Ledger) -> dict[int, int]:
    query = sa.select(handlers.c.id, handlers.c.revision)
    return dict(ledger.transaction.fetch(query, tuple[int, int]))
