"""Operations of attempts: mark as running, append partial results, settle."""

from __future__ import annotations

import msgspec

from busway.domain.run import Outcome
from busway.gateway.store.core import breakers, completions, publishing
from busway.gateway.store.core.ledger import Ledger, RunRow, brief
from busway.gateway.store.core.records import fence
from busway.gateway.store.core.schema import OUTCOME_CODES, RUNNING, STATE_CODES, SUCCEEDED
from busway.gateway.store.core.transaction import ATTEMPT
from busway.gateway.store.port.operations import (
    Append,
    Assign,
    Mark,
    Report,
    Return,
    Settle,
    Settled,
    Stopped,
    StoredEvent,
)


def mark(ledger: Ledger, operation: Mark) -> bool:
    """Mark an attempt as running, if its run is waiting for it."""
    run = ledger.run(operation.run)
    if run is None:
        return False
    if _runs_here(ledger, run, operation.token):
        if run.worker is None:  # it was assigned, or nobody knew the worker yet
            ledger.change(run, RUNNING)
            run.started_at, run.worker = operation.started_at, operation.worker
            run.revision = operation.revision
        return True
    if not _waits_for(run, operation):
        return False
    ledger.change(run, RUNNING)
    run.attempt, run.token, run.revision = operation.attempt, operation.token, operation.revision
    run.started_at, run.pool, run.worker = operation.started_at, operation.pool, operation.worker
    run.node = ledger.head.node
    return True


def assign(ledger: Ledger, operation: Assign) -> bool:
    """Mark a waiting run as running on another node, which starts the attempt."""
    run = ledger.run(operation.run)
    if run is None or not _waits_for(run, operation):
        return False
    if not ledger.transaction.may_assign(operation.term, operation.node):
        return False
    ledger.change(run, RUNNING)
    run.attempt, run.token, run.revision = operation.attempt, operation.token, operation.revision
    run.started_at, run.pool, run.node = operation.now, operation.pool, operation.node
    return True


def give_back(ledger: Ledger, operation: Return) -> bool:
    """Let a run wait again whose assigned attempt never started."""
    run = ledger.run(operation.run)
    if run is None or not _runs_here(ledger, run, operation.token):
        return False
    run.attempt -= 1
    ledger.change(run, 1 if run.attempt else 0)
    run.due, run.available_at, run.revision = None, operation.now, None
    run.token = -operation.now  # a fence: outcomes of earlier attempts are refused
    forget_attempt(run)
    return True


def stopped(ledger: Ledger, operation: Stopped) -> None:
    """Let the leader know that nothing of these runs' attempts runs any more."""
    ledger.transaction.stopped(operation.runs)


def append(ledger: Ledger, operation: Append) -> int:
    """Append a partial result, unless its attempt has ended."""
    new = operation.result
    earlier = ledger.unacknowledged.get((operation.run, operation.attempt, new.index))
    if earlier:
        return earlier[0]
    run = ledger.run(operation.run)
    if run is None or not (_runs_here(ledger, run, operation.token) or _waits_for(run, operation)):
        return 0
    return ledger.add_result(run, new, operation.revision, operation.attempt)


def settle(ledger: Ledger, operation: Settle) -> Settled:
    """Settle an attempt once."""
    run = ledger.run(operation.run)
    if run is None:
        return Settled(False)
    running = run.state == RUNNING
    if not (_runs_here(ledger, run, operation.token) if running else _waits_for(run, operation)):
        settled = _repeat_reply(ledger, run, operation)
        settled.paused = breakers.find_paused(ledger, operation)
        return settled
    stored: list[StoredEvent] = []
    started = 0
    if operation.published:
        own = operation.published
        if operation.notices:
            own = own[: -operation.notices]
        counted = publishing.inside(run.counted)
        stored = [publishing.store(ledger, new, counted) for new in own]
        started = publishing.started(own, stored)
        if operation.notices:
            stored += [publishing.store(ledger, new) for new in operation.published[len(own) :]]
    state = STATE_CODES[operation.state]
    completes = completions.step(ledger, run, state if state > RUNNING else None, started)
    _close(ledger, run, operation, state)
    if operation.lingers:
        ledger.transaction.lingers(run.id, ledger.head.node)
    new = operation.result
    number = 0
    if new is not None:
        number = ledger.add_result(run, new, operation.report.revision, operation.attempt, completes)
    run.last_result = ledger.head.result if state > RUNNING else None
    settled = Settled(True, number, completes.encode() if completes else None, stored, run.granted)
    if operation.breaker is not None:
        settled.paused = breakers.count(ledger, operation)
        settled.rules = ledger.head.rules
    return settled


def is_unmarked(ledger: Ledger, operation: Mark | Append | Settle) -> bool:
    """Return whether an operation is about an attempt that nobody has marked, of a run that waits for it."""
    run = ledger.run(operation.run)
    return run is not None and _waits_for(run, operation)


def record(ledger: Ledger, run: int, attempt: int, report: Report, node: int | None) -> None:
    """Insert the row of an attempt that a node had."""
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
            node,
            report.published,
        ),
    )


def forget_attempt(run: RunRow) -> None:
    """Clear the attempt in the run's row, because it has a row of its own or there is none."""
    run.started_at = run.pool = run.worker = run.node = None
    run.cpu_time = run.wall_time = run.peak_memory = None


def _runs_here(ledger: Ledger, run: RunRow, token: int) -> bool:
    """Return whether a run is marked as running with this token, on the node that writes."""
    return run.state == RUNNING and run.token == token and run.node == ledger.head.node


def _waits_for(run: RunRow, operation: Mark | Append | Settle | Assign) -> bool:
    waits = run.state < RUNNING and run.attempt == operation.attempt - 1
    return waits and fence(run.token) == operation.fence


def _repeat_reply(ledger: Ledger, run: RunRow, operation: Settle) -> Settled:
    """Reply to a Settle that is refused, or that an earlier batch accepted and whose reply was lost."""
    if run.token != operation.token or run.attempt != operation.attempt:
        return Settled(False)
    if run.node not in {None, ledger.head.node}:
        return Settled(False)
    number, completes = ledger.unacknowledged.get((run.id, run.attempt, None), (0, None))
    stored = [StoredEvent(ledger.seen.get((new.id, new.source), 0), 0, True) for new in operation.published]
    return Settled(True, number, completes.encode() if completes else None, stored, run.granted)


def _close(ledger: Ledger, run: RunRow, operation: Settle, state: int) -> None:
    report = operation.report
    first = (
        operation.attempt == 1
        and report.outcome == Outcome.SUCCEEDED
        and not (report.log or report.published)
    )
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
        run.peak_memory, run.node = report.peak_memory, ledger.head.node
    else:
        forget_attempt(run)
        record(ledger, run.id, operation.attempt, report, ledger.head.node)
