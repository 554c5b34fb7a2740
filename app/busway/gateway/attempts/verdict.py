"""Decide the next state of a run when an attempt ended. The recorder acts on the returned value."""

from __future__ import annotations

import msgspec

from busway.domain.result import Kind
from busway.domain.run import MAX_LOSSES, Error, Outcome, RunState
from busway.domain.times import SECOND
from busway.gateway.attempts.inflight import Attempt
from busway.gateway.executors.port import Ended


class Verdict(msgspec.Struct, frozen=True):
    """The run's next state, its losses, when it may start again, and the entry for the result log."""

    state: RunState
    kind: Kind
    lost: int
    due: int | None = None
    error: Error | None = None


def judge(attempt: Attempt, ended: Ended, chance: float) -> Verdict:
    """Decide by the limits that the attempt was started with. `chance` in [0, 1) sets the jitter."""
    if ended.outcome is Outcome.SUCCEEDED:
        return Verdict(RunState.SUCCEEDED, Kind.SUCCEEDED, attempt.run.lost)
    if ended.outcome is Outcome.LOST:
        return _lost(attempt, ended)
    return _failed(attempt, ended, chance)


def _lost(attempt: Attempt, ended: Ended) -> Verdict:
    lost = attempt.run.lost + 1
    if lost < MAX_LOSSES:
        return Verdict(RunState.AVAILABLE, Kind.LOST, lost, error=ended.error)
    error = Error("Lost", f"{lost} attempts were lost with their worker or gateway")
    return Verdict(RunState.DEAD, Kind.DEAD, lost, error=error)


def _failed(attempt: Attempt, ended: Ended, chance: float) -> Verdict:
    run, spec = attempt.run, attempt.spec
    failures = attempt.number - run.lost - run.granted
    if ended.fatal or (failures >= spec.max_attempts and not ended.keeps):
        return Verdict(RunState.DEAD, Kind.DEAD, run.lost, error=ended.error)
    wait = ended.retry_after if ended.retry_after is not None else spec.backoff.delay(failures, chance)
    due = ended.finished_at + round(wait * SECOND)
    return Verdict(RunState.RETRYABLE, Kind.FAILED, run.lost, due, ended.error)
