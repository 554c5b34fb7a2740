"""The last reports of a worker: what its death means for each attempt that it had not answered."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from app.domain.run import Error, Outcome
from app.workers import policy
from app.workers.base import Ended, Returned, WorkerReport
from app.workers.flight import Flight, Moment, broken_off, given_up, stack_of
from app.workers.policy import Standing, Verdict
from app.workers.slots import Page


class Death(msgspec.Struct, frozen=True):
    """How a worker ended.

    `status` is its wait status, None if nobody could tell. `killed`: by the gateway.
    `alone`: it was made for one attempt. `said`: the last lines that it wrote to its descriptors since a
    moment (monotonic nanoseconds).
    """

    pid: int | None
    status: int | None
    killed: bool
    alone: bool
    said: Callable[[int], str]


def obituary(death: Death, left: list[Flight], page: Page, now: Moment) -> list[WorkerReport]:
    """Report on the attempts that are `left`; those that were settled before need no report."""
    verdicts = policy.verdicts((f.standing(page) for f in left), killed=death.killed, alone=death.alone)
    told = [_last_word(death, f, verdict, page, now) for f, verdict in zip(left, verdicts, strict=True)]
    _attribute_output(death, left, page, told)
    return [report for report in told if report is not None]


def _attribute_output(
    death: Death, left: list[Flight], page: Page, told: Sequence[WorkerReport | None]
) -> None:
    # What a descriptor was written to is the worker's; where only one attempt ran, it is that one's.
    started = [(f, r) for f, r in zip(left, told, strict=True) if f.started(page)]
    if len(started) != 1:
        return
    flight, report = started[0]
    if isinstance(report, Ended):
        report.log = f"{report.log or ''}{death.said(flight.since(page))}" or None


def _last_word(
    death: Death, flight: Flight, verdict: Verdict, page: Page, now: Moment
) -> WorkerReport | None:
    if verdict is Verdict.NOTHING or flight.settled:
        return None
    if verdict is Verdict.RETURN:
        return Returned(token=flight.assignment.token)
    if verdict is Verdict.GIVE_UP:
        return given_up(flight, page, now, death.pid, stack_of(flight, page))
    return _charged_or_lost(death, flight, verdict, page, now)


def _charged_or_lost(death: Death, flight: Flight, verdict: Verdict, page: Page, now: Moment) -> Ended:
    stack = stack_of(flight, page) if flight.standing(page) is Standing.RUNNING else None
    charged = verdict is Verdict.CHARGE
    why = "the gateway ended its worker" if death.killed else policy.cause_of(death.status)
    outcome = Outcome.FAILED if charged else Outcome.LOST
    alone = verdict is Verdict.LOSE_ALONE or (charged and death.alone)
    return broken_off(flight, page, now, death.pid, Error("WorkerDied", why, stack), outcome, alone=alone)
