"""The events about dead runs, and about handlers that their breaker pauses."""

from __future__ import annotations

import logging

from busway.domain import times
from busway.domain.breaker import BreakerCheck
from busway.domain.event import NewEvent
from busway.domain.event_fields import MAX_DEPTH
from busway.domain.handler import Rules
from busway.domain.operations import HANDLER_PAUSED, RUN_DEAD, asks_for, descends_from_notice, notice
from busway.domain.run import Error, Outcome
from busway.domain.times import SECOND
from busway.gateway.attempts.inflight import Attempt
from busway.gateway.executors.port import Ended
from busway.gateway.store.port.operations import Settled

log = logging.getLogger("busway.attempts")

_MESSAGE = 1_000  # characters of an error


def report_dead(attempt: Attempt, error: Error | None, rules: Rules, now: int) -> list[NewEvent]:
    """Return the event about a run that is dead, if a handler asks for it. Shadow replays make none.

    It counts as one event deeper, so that a loop ends even if handlers hide it with a `correlationid` of
    their own.
    """
    run = attempt.run
    if run.replay < 0 or run.event.depth >= MAX_DEPTH or descends_from_notice(run.event):
        return []
    data = {
        "run": run.id,
        "handler": attempt.handler,
        "attempt": attempt.number,
        "event": {"seq": run.event.seq, "id": run.event.id, "type": run.event.type},
        "error": error and {"type": error.type, "message": error.message[:_MESSAGE]},
    }
    event = notice(RUN_DEAD, f"{run.id}:{attempt.number}", attempt.handler, data, now)
    event.depth = run.event.depth + 1
    return _asked_for(event, rules)


def check_breaker(attempt: Attempt, ended: Ended, rules: Rules) -> BreakerCheck | None:
    """Return what the store needs to count an outcome for the breaker of its handler. None: it has none.

    Shadow replays do not count.
    """
    run, rule, now = attempt.run, attempt.spec.breaker, ended.finished_at
    if rule is None or run.replay < 0:
        return None
    check = BreakerCheck(rule)
    if ended.outcome is Outcome.FAILED and not asks_for(attempt.spec.events, HANDLER_PAUSED):
        until = None if rule.seconds is None else times.to_text(now + round(rule.seconds * SECOND))
        data = {
            "handler": attempt.handler,
            "paused_by": "breaker",
            "reason": f"its attempts only failed, the last one of run {run.id}",
            "paused_until": until,
        }
        event = notice(HANDLER_PAUSED, f"{run.id}:{attempt.number}", attempt.handler, data, now)
        check.notices = _asked_for(event, rules)
    return check


def _asked_for(event: NewEvent, rules: Rules) -> list[NewEvent]:
    event.handlers = rules.match(event)
    return [event] if event.handlers else []


class PauseLog:
    """Gets the replies to outcomes of handlers with a breaker, and logs when it has paused one."""

    def done(self) -> bool:
        """Return False: it wants every reply."""
        return False

    def set_result(self, settled: Settled) -> None:
        """Log that the handler is paused now."""
        handler = settled.paused
        if handler is not None and handler.pause is not None:
            until = handler.pause.until
            then = "somebody must resume it" if until is None else f"it resumes at {times.to_text(until)}"
            log.warning("the handler %s paused itself: %s; %s", handler.name, handler.pause.reason, then)

    def set_exception(self, _: BaseException) -> None:
        """Do nothing: the outcome is sent again."""
