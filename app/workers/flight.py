"""An attempt that a worker has been sent, and the reports that it can end in."""

from __future__ import annotations

import time

import msgspec

from app.domain.run import Error, Outcome
from app.workers import stacks
from app.workers.base import Assignment, Ended
from app.workers.pace import Pace
from app.workers.policy import Standing
from app.workers.slots import Page
from app.workers.wire import Answer

_MILLISECOND = 1_000_000  # nanoseconds


class Flight(msgspec.Struct, kw_only=True, eq=False):
    """One attempt between handing it over and its answer. Times in monotonic nanoseconds.

    `quick`: it was sent as one of a handler whose attempts may queue. `overdue`: its time is up.
    `cancelled`: nobody wants it. `settled`: it was reported, or needs no report; it may still run.
    `doubted`: its worker was told not to begin it. `recalled`: so it did not, and others have it now.
    `strike_at`: when the worker's patience with an overdue or cancelled attempt ends.
    """

    assignment: Assignment
    seat: int
    sent_at: int
    awaits: bool
    quick: bool
    pace: Pace
    marked: bool = False
    overdue: bool = False
    cancelled: bool = False
    settled: bool = False
    doubted: bool = False
    recalled: bool = False
    struck: bool = False
    strike_at: int | None = None

    def started(self, page: Page) -> bool:
        """Whether its worker has begun it."""
        return page.started(self.seat, self.assignment.token)

    def since(self, page: Page) -> int:
        """When it was begun; never before it was sent, whatever another processor's view of the page."""
        return max(page.since(self.seat), self.sent_at)

    def standing(self, page: Page) -> Standing:
        """How far it had come when its worker died."""
        token = self.assignment.token
        if self.settled:
            return Standing.SETTLED if page.started(self.seat, token) else Standing.UNSTARTED
        if not page.started(self.seat, token):
            return Standing.UNSTARTED
        if self.overdue:
            return Standing.OVERDUE
        return Standing.RETURNED if page.finished(self.seat, token) else Standing.RUNNING


class Moment(msgspec.Struct, frozen=True):
    """Now, on both clocks: `mono` in nanoseconds, `wall` in microseconds since 1970."""

    mono: int
    wall: int

    def wall_at(self, mono: int) -> int:
        """Translate a monotonic time into microseconds since 1970."""
        return self.wall - (self.mono - mono) // 1000


def now() -> Moment:
    """Read both clocks."""
    return Moment(time.monotonic_ns(), time.time_ns() // 1000)


def stack_of(flight: Flight, page: Page) -> str | None:
    """Return where the attempt's thread was when faulthandler last wrote, None if it did not."""
    return stacks.of_thread(page.dumped(), page.thread(flight.seat))


def answered(token: int, answer: Answer, worker: int | None) -> Ended:
    """Report what a worker answered."""
    finished = answer.started_at + int(answer.wall * 1e6)
    clock = time.time_ns() // 1000
    if finished > clock:  # the clock was put back meanwhile: what follows would wait for the old time
        answer.started_at -= finished - clock
    return Ended(
        token=token,
        outcome=Outcome.SUCCEEDED if answer.error is None else Outcome.FAILED,
        started_at=answer.started_at,
        finished_at=answer.started_at + int(answer.wall * 1e6),
        worker=worker,
        cpu_time=answer.cpu,
        wall_time=answer.wall,
        peak_memory=answer.peak,
        data=answer.data,
        binary=answer.binary,
        published=answer.published,
        error=answer.error,
        log=answer.log,
        retry_after=answer.retry_after,
        fatal=answer.fatal,
    )


def timed_out(flight: Flight, page: Page, now: Moment, worker: int | None, stack: str | None) -> Ended:
    """Report an attempt whose time was up, whatever else it did."""
    error = Error("Timeout", f"ran longer than {flight.assignment.timeout:g} s", stack)
    return broken_off(flight, page, now, worker, error)


def broken_off(
    flight: Flight,
    page: Page,
    now: Moment,
    worker: int | None,
    error: Error,
    outcome: Outcome = Outcome.FAILED,
    *,
    alone: bool = False,
) -> Ended:
    """Report an attempt that never answered, or too late."""
    since = flight.since(page)
    return Ended(
        token=flight.assignment.token,
        outcome=outcome,
        started_at=now.wall_at(since),
        finished_at=now.wall,
        worker=worker,
        wall_time=max(0.0, (now.mono - since) / 1e9),
        error=error,
        log=page.printed(flight.seat),
        alone=alone,
    )
