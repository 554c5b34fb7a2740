"""Operations of attempts: mark as running, append partial results, settle."""

from __future__ import annotations

import msgspec

from busway.domain.run import Outcome
from busway.gateway.store.core import completions, publishing
from busway.gateway.store.core.ledger import Ledger, RunRow, brief
from busway.gateway.store.core.records import fence
from busway.gateway.store.core.schema import OUTCOME_CODES, RUNNING, STATE_CODES, SUCCEEDED
from busway.gateway.store.core.transaction import ATTEMPT
from busway.gateway.store.port.operations import Append, Mark, Report, Settle, Settled, StoredEvent


def mark(ledger: Ledger, operation: Mark) -> bool:
    """Mark an attempt as running, if its run is waiting for it."""
    run = ledger.run(operation.run)
    if run is None:
        return False
    if run.state == RUNNING and run.token == operation.token:
        return True  # resent, because the reply was lost
    if not _waits_for(run, operation):
        return False
    ledger.change(run, RUNNING)
    run.attempt, run.token, run.revision = operation.attempt, operation.token, operation.revision
    run.started_at, run.pool, run.worker = operation.started_at, operation.pool, operation.worker
    return True


def append(ledger: Ledger, operation: Append) -> int:
    """Append a partial result, unless its attempt has ended."""
    new = operation.result
    earlier = ledger.unacknowledged.get((operation.run, operation.attempt, new.index))
    if earlier:
        return earlier[0]
    run = ledger.run(operation.run)
    if run is None or not (_runs_as(run, operation.attempt) or _waits_for(run, operation)):
        return 0
    return ledger.add_result(run, new, operation.revision, operation.attempt)


def settle(ledger: Ledger, operation: Settle) -> Settled:
    """Settle an attempt once."""
    run = ledger.run(operation.run)
    if run is None:
        return Settled(False)
    if not _is_under_way(run, operation):
        return _repeat_reply(ledger, run, operation)
    stored: list[StoredEvent] = []
    started = 0
    if operation.published:
        counted = publishing.inside(run.counted)
        stored = [publishing.store(ledger, new, counted) for new in operation.published]
        started = publishing.started(operation.published, stored)
    state = STATE_CODES[operation.state]
    completes = completions.step(ledger, run, state if state > RUNNING else None, started)
    _close(ledger, run, operation, state)
    new = operation.result
    number = 0
    if new is not None:
        number = ledger.add_result(run, new, operation.report.revision, operation.attempt, completes)
    run.last_result = ledger.head.result if state > RUNNING else None
    return Settled(True, number, completes.encode() if completes else None, stored, run.granted)


def record(ledger: Ledger, run: int, attempt: int, report: Report) -> None:
    """Insert the row of an attempt."""
    error = report.error
    ledger.add(
        ATTEMPT,
        (
            run,
            attempt,
            OUTCOME_CODES[report.outcome],
            report.revision,
            report.started_at,
            report.finished_at,
            report.pool,
            report.worker,
            report.cpu_time,
            report.wall_time,
            report.peak_memory,
            msgspec.json.encode(error).decode() if error else None,
            report.log,
        ),
    )


def forget_attempt(run: RunRow) -> None:
    """Clear the attempt in the run's row, because it has a row of its own or there is none."""
    run.started_at = run.pool = run.worker = run.cpu_time = run.wall_time = run.peak_memory = None


def _runs_as(run: RunRow, attempt: int) -> bool:
    return run.state == RUNNING and run.attempt == attempt


def _waits_for(run: RunRow, operation: Mark | Append | Settle) -> bool:
    waits = run.state < RUNNING and run.attempt == operation.attempt - 1
    return waits and fence(run.token) == operation.fence


def _is_under_way(run: RunRow, operation: Settle) -> bool:
    if run.state == RUNNING:
        return run.token == operation.token
    return _waits_for(run, operation)


def _repeat_reply(ledger: Ledger, run: RunRow, operation: Settle) -> Settled:
    """Reply to a Settle that is refused, or that an earlier batch accepted and whose reply was lost."""
    if run.token != operation.token or run.attempt != operation.attempt:
        return Settled(False)
    number, completes = ledger.unacknowledged.get((run.id, run.attempt, None), (0, None))
    stored = [StoredEvent(ledger.seen.get((new.id, new.source), 0), 0, True) for new in operation.published]
    return Settled(True, number, completes.encode() if completes else None, stored, run.granted)


def _close(ledger: Ledger, run: RunRow, operation: Settle, state: int) -> None:
    report = operation.report
    first = operation.attempt == 1 and report.outcome == Outcome.SUCCEEDED and not report.log
    others = (report.peak_memory, run.peak_memory, run.error)
    ledger.change(run, state, settled=first and state == SUCCEEDED and others == (None, None, None))
    run.attempt, run.lost, run.max_attempts = operation.attempt, operation.lost, operation.max_attempts
    run.token, run.revision, run.error = operation.token, report.revision, brief(report.error)
    if state > RUNNING:
        run.finished_at = report.finished_at
    else:
        run.due, run.available_at = operation.due, report.finished_at
    if run.error:
        ledger.errors[run.handler] = run.error
    if first:
        run.started_at, run.pool, run.worker = report.started_at, report.pool, report.worker
        run.cpu_time, run.wall_time = report.cpu_time, report.wall_time
        run.peak_memory = report.peak_memory
    else:
        forget_attempt(run)
        record(ledger, run.id, operation.attempt, report)
