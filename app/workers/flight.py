"""An attempt that a worker has been sent, and the reports that it can end in."""

from __future__ import annotations

import time

import msgspec

from app.domain.run import Error, Outcome
from app.workers import stacks
from app.workers.base import Assignment, Ended, Partial
from app.workers.memory import MIB
from app.workers.pace import Pace
from app.workers.policy import Standing
from app.workers.slots import Page
from app.workers.wire import Piece


class Flight(msgspec.Struct, eq=False):
    """One attempt between handing it over and its answer. Times in monotonic nanoseconds.

    `quick`: it was sent as one of a handler whose attempts may queue. `overdue`: its time is up.
    `peak`: the most memory that it was seen to take, in bytes; `excessive`: that is over its limit.
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
    excessive: bool = False
    peak: int = 0
    cancelled: bool = False
    settled: bool = False
    doubted: bool = False
    recalled: bool = False
    struck: bool = False
    strike_at: int | None = None

    def started(self, page: Page) -> bool:
        """Whether its worker has begun it."""
        return page.started(self.seat, self.assignment.token)

    @property
    def given_up(self) -> bool:
        """Whether it fails whatever else it does: for its time, or for its memory."""
        return self.overdue or self.excessive

    def weigh(self, page: Page, held: int) -> bool:
        """Take note of what its worker holds; True if it took more than its limit."""
        limit, before = self.assignment.memory, page.weighed(self.seat)
        if limit is None or not before:
            return False
        self.peak = max(self.peak, held - before)
        return self.peak > limit * MIB

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
        if self.given_up:
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


def partial(token: int, piece: Piece) -> Partial:
    """Report a value that an attempt sent on its way."""
    return Partial(token=token, index=piece.index, data=piece.data, binary=piece.binary, time=piece.time)


def correct(ended: Ended, flight: Flight, clock: int) -> None:
    """Put right what a worker reports of its attempt; `clock` is now, in microseconds since 1970."""
    if ended.finished_at > clock:  # it was put back meanwhile: what follows would wait for the old time
        ended.started_at -= ended.finished_at - clock
        ended.finished_at = clock
    if flight.peak:
        ended.peak_memory = max(ended.peak_memory or 0, flight.peak)


def given_up(flight: Flight, page: Page, now: Moment, worker: int | None, stack: str | None) -> Ended:
    """Report an attempt whose time was up or that took too much memory, whatever else it did."""
    if flight.excessive:
        error = Error("MemoryExceeded", _excess(flight), stack)
    else:
        error = Error("Timeout", f"ran longer than {flight.assignment.timeout:g} s", stack)
    return broken_off(flight, page, now, worker, error)


def _excess(flight: Flight) -> str:
    used, limit = -(-flight.peak // MIB), flight.assignment.memory
    return f"used {used} MiB, the limit is {limit} MiB: take less at once, or raise the handler's memory"


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
        peak_memory=flight.peak or None,
        error=error,
        log=page.printed(flight.seat),
        alone=alone,
    )
