"""Log the attempts that did not succeed, with what happens next."""

from __future__ import annotations

import logging

from busway.domain.run import Error, Outcome, RunState
from busway.domain.times import SECOND
from busway.domain.trace import named_trace
from busway.gateway.attempts.inflight import Attempt
from busway.gateway.attempts.verdict import Verdict
from busway.gateway.executors.port import Ended
from busway.gateway.log_limit import OUTCOMES, LinesOfHandlers
from busway.gateway.store.port.reader import RunRecord

log = logging.getLogger(OUTCOMES)

_EACH, _TOGETHER = 10, 100  # attempts a second
_MESSAGE = 500  # characters of an error's message in the first line
_OUTPUT = 8192  # characters of the end of the attempt's output
MOST_LOST = 10  # attempts that were lost with the gateway before
_CHAINED = "Traceback (most recent call last):"


class OutcomeLog:
    """Writes one record for each attempt that failed or was lost, up to a number for each handler."""

    def __init__(self) -> None:
        self._lines = LinesOfHandlers(_EACH, _TOGETHER, _say_left_out)

    def write(self, attempt: Attempt, ended: Ended, verdict: Verdict) -> None:
        """Log the outcome of an attempt. It did not succeed."""
        dead = verdict.state is RunState.DEAD
        level = logging.ERROR if dead else logging.WARNING
        if not log.isEnabledFor(level):
            return
        if self._lines.free(attempt.handler) <= 0:
            self._lines.leave_out(attempt.handler)
            return
        self._lines.passed(attempt.handler)
        wait = None if dead else max(0.0, ((verdict.due or 0) - ended.finished_at) / SECOND)
        run, event, error = attempt.run, attempt.run.event, ended.error
        most = attempt.spec.max_attempts + run.granted + verdict.lost
        lost = ended.outcome is Outcome.LOST  # it does not count
        traced = named_trace(event.attributes)
        number = f"{attempt.number}" if lost else f"{attempt.number} of {most}"
        log.log(
            level,
            "%s run %d: attempt %s %s; %s (event %d %s%s)",
            attempt.handler, run.id, number, _what(ended), _next(wait), event.seq, event.type,
            f", trace {traced}" if traced else "",
            extra={
                "handler": attempt.handler,
                "run": run.id,
                "attempt": attempt.number,
                "max_attempts": most,
                "outcome": str(ended.outcome),
                "state": str(verdict.state),
                "next_attempt_in": wait,
                "seq": event.seq,
                "type": event.type,
                "event_id": event.id,
                **({"trace_id": traced} if traced else {}),
                "error": error and {"type": error.type, "message": error.message},
                "traceback": _traceback(error),
                "output": ended.log and ended.log[-_OUTPUT:],
            },
        )  # fmt: skip


def write_lost(run: RunRecord) -> None:
    """Log that the newest attempt of a run was lost with the gateway before. `run`: as it is now."""
    dead = run.state is RunState.DEAD
    wait = None if dead else 0.0
    log.log(
        logging.ERROR if dead else logging.WARNING,
        "%s run %d: attempt %d was lost: the gateway ended while it ran; %s (event %d)",
        *(run.handler, run.id, run.attempt, _next(wait), run.event),
        extra={
            "handler": run.handler,
            "run": run.id,
            "attempt": run.attempt,
            "max_attempts": run.max_attempts,
            "outcome": str(Outcome.LOST),
            "state": str(run.state),
            "next_attempt_in": wait,
            "seq": run.event,
        },
    )


def _what(ended: Ended) -> str:
    error = ended.error
    if error is None:
        return str(ended.outcome)
    message = error.message.strip().partition("\n")[0][:_MESSAGE]
    if ended.outcome is Outcome.LOST:
        return f"was lost: {message}"
    if error.type == "Timeout" and message.startswith("ran longer than "):
        return f"timed out: it {message}"
    return f"failed: {error.type}: {message}" if message else f"failed: {error.type}"


def _next(wait: float | None) -> str:
    if wait is None:
        return "the run is dead, no next attempt"
    if not wait:
        return "next attempt at once"
    return f"next attempt in {wait:.2g} s" if wait < 10 else f"next attempt in {wait:.0f} s"


def _traceback(error: Error | None) -> str | None:
    """Return the traceback, none for a plain `Retry`, which is what its handler wanted."""
    if error is None or error.traceback is None:
        return None
    return None if error.type == "Retry" and error.traceback.count(_CHAINED) < 2 else error.traceback


def _say_left_out(handler: str, attempts: int) -> None:
    log.warning(
        "%s: %d more attempts failed within a second: `busway runs` lists them",
        handler,
        attempts,
        extra={"handler": handler, "left_out": attempts},
    )
