"""Attempts that were sent to a worker, and the reports that end them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Sequence

import msgspec

from busway.domain.run import Error, Outcome
from busway.gateway.channel import Channel
from busway.gateway.executors.port import Assignment, Ended, Gone, Partial, Returned, WorkerReport
from busway.gateway.executors.python.host import policy
from busway.gateway.executors.python.host.policy import Standing, Verdict
from busway.gateway.executors.python.wire import protocol as wire
from busway.gateway.executors.python.wire.memory import MIB
from busway.gateway.executors.python.wire.pace import Pace
from busway.gateway.executors.python.wire.protocol import Call, Piece, ToWorker
from busway.gateway.executors.python.wire.slots import Page


class Flight(msgspec.Struct, eq=False):
    """An attempt from sending until its report. Times in monotonic nanoseconds.

    `quick`: it was sent as a quick one, which may queue in the worker. `marked`: its start was reported.
    `overdue`: it timed out. `peak`: the most memory measured, in bytes; `excessive`: that is over its limit.
    `cancelled`: the gateway does not want it any more. `settled`: it was reported, or needs no report; it may
    still run. `doubted`: the worker was told not to start it. `recalled`: it has not started, and goes to
    another worker. `struck`: its worker is being killed or retired for it. `strike_at`: when the grace of an
    overdue or cancelled attempt ends.
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
        """Return whether its worker has started it."""
        return page.started(self.seat, self.assignment.token)

    @property
    def given_up(self) -> bool:
        """Whether it fails in any case, because it timed out or took too much memory."""
        return self.overdue or self.excessive

    def weigh(self, page: Page, held: int) -> bool:
        """Record the memory that its worker holds, in bytes. Return True if the attempt is over its limit."""
        limit, before = self.assignment.memory, page.weighed(self.seat)
        if limit is None or not before:
            return False
        self.peak = max(self.peak, held - before)
        return self.peak > limit * MIB

    def since(self, page: Page) -> int:
        """Return when it started. Never before it was sent: another CPU may see an old value in the page."""
        return max(page.since(self.seat), self.sent_at)

    def standing(self, page: Page) -> Standing:
        """Return how far it was when its worker died."""
        token = self.assignment.token
        if self.settled:
            return Standing.SETTLED if page.started(self.seat, token) else Standing.UNSTARTED
        if not page.started(self.seat, token):
            return Standing.UNSTARTED
        if self.given_up:
            return Standing.OVERDUE
        return Standing.RETURNED if page.finished(self.seat, token) else Standing.RUNNING


class Moment(msgspec.Struct, frozen=True):
    """The current time on both clocks: `mono` in nanoseconds, `wall` in microseconds since 1970."""

    mono: int
    wall: int

    def wall_at(self, mono: int) -> int:
        """Convert a monotonic time to microseconds since 1970."""
        return self.wall - (self.mono - mono) // 1000


def now() -> Moment:
    """Read both clocks."""
    return Moment(time.monotonic_ns(), time.time_ns() // 1000)


def stack_of(flight: Flight, page: Page) -> str | None:
    """Return the stack of the attempt's thread from the latest faulthandler dump, None if there is none."""
    return policy.of_thread(page.dumped(), page.thread(flight.seat))


def partial(token: int, piece: Piece) -> Partial:
    """Return the report of a partial."""
    return Partial(token=token, index=piece.index, data=piece.data, binary=piece.binary, time=piece.time)


def correct(ended: Ended, flight: Flight, clock: int) -> None:
    """Correct a worker's report of an attempt. `clock`: the current time in microseconds since 1970."""
    if ended.finished_at > clock:  # the clock was set back; otherwise a retry would wait for the old time
        ended.started_at -= ended.finished_at - clock
        ended.finished_at = clock
    if flight.peak:
        ended.peak_memory = max(ended.peak_memory or 0, flight.peak)


def given_up(
    flight: Flight, page: Page, now: Moment, worker: int | None, stack: str | None, *, lingers: bool = False
) -> Ended:
    """Return the report of an attempt that timed out or took too much memory."""
    if flight.excessive:
        error = Error("MemoryExceeded", _excess(flight), stack)
    else:
        error = Error("Timeout", f"ran longer than {flight.assignment.timeout:g} s", stack)
    return broken_off(flight, page, now, worker, error, lingers=lingers)


def _excess(flight: Flight) -> str:
    used, limit = -(-flight.peak // MIB), flight.assignment.memory
    return f"used {used} MiB, the limit is {limit} MiB: use less memory, or raise the handler's `memory`"


def broken_off(
    flight: Flight,
    page: Page,
    now: Moment,
    worker: int | None,
    error: Error,
    outcome: Outcome = Outcome.FAILED,
    *,
    alone: bool = False,
    lingers: bool = False,
) -> Ended:
    """Return the report of an attempt that the worker never reported, or reported too late."""
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
        lingers=lingers,
    )


_RUN = int(ToWorker.RUN)  # enum members are slow to look up
_FULL = 32 * 1024  # bytes of payloads in a frame; the worker reads at most twice that at a time


class Calls:
    """Collects the attempts sent in one tick of the event loop, so that they leave as one frame."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._kept: list[Call] = []
        self._size = 0
        self._loop = asyncio.get_running_loop()

    def add(self, assignment: Assignment, seat: int, quick: bool) -> None:
        """Keep an attempt until the end of the tick."""
        if not self._kept:
            self._loop.call_soon(self.flush)
        event = assignment.event
        call = Call(
            assignment.token, seat, assignment.run, assignment.attempt, assignment.handler,
            assignment.revision, assignment.target, event, quick,
        )  # fmt: skip
        self._kept.append(call)
        data = event.data
        if data is not None:
            self._size += len(data)
            if self._size >= _FULL:
                self._send()

    def flush(self) -> None:
        """Send the kept attempts now."""
        if self._kept:
            self._send()

    def _send(self) -> None:
        self._channel.send_now(_RUN, 0, wire.encode(self._kept))
        self._kept.clear()
        self._size = 0


_LONG = 50_000_000  # nanoseconds


def is_clogged(flights: Collection[Flight], page: Page, threads: int, now: Moment) -> bool:
    """Return whether every thread of a worker runs a slow attempt."""
    if len(flights) < threads:
        return False
    long = sum(not f.awaits and f.started(page) and now.mono - f.since(page) > _LONG for f in flights)
    return long >= threads


def recall(flights: Collection[Flight], page: Page) -> list[Returned]:
    """Take back the attempts that a clogged worker has not started. Call it at each check of its page.

    The first check tells the worker not to start them. Only the next check returns them for another worker,
    because only then the worker must have seen it.
    """
    told: list[Returned] = []
    for flight in flights:
        if flight.awaits or flight.settled or flight.started(page):
            continue
        if flight.doubted:
            flight.settled = flight.recalled = True
            told.append(Returned(token=flight.assignment.token))
        else:
            flight.doubted = True
            page.recall(flight.seat, flight.assignment.token)
    return told


def last_of_settled(flight: Flight) -> Gone | None:
    """Return the report that a settled attempt no longer runs, None if it was recalled."""
    return None if flight.recalled else Gone(token=flight.assignment.token)


class Death(msgspec.Struct, frozen=True):
    """How a worker ended.

    `status`: its wait status, None if unknown. `killed`: the gateway killed it. `alone`: it was started for
    one attempt. `said`: returns the last lines of its output since a time in monotonic nanoseconds.
    """

    pid: int | None
    status: int | None
    killed: bool
    alone: bool
    said: Callable[[int], str]


def obituary(death: Death, left: list[Flight], page: Page, now: Moment) -> list[WorkerReport]:
    """Return the reports of the attempts that a dead worker had."""
    verdicts = policy.verdicts((f.standing(page) for f in left), killed=death.killed, alone=death.alone)
    told = [_last_word(death, f, verdict, page, now) for f, verdict in zip(left, verdicts, strict=True)]
    _attribute_output(death, left, page, told)
    return [report for report in told if report is not None]


def _attribute_output(
    death: Death, left: list[Flight], page: Page, told: Sequence[WorkerReport | None]
) -> None:
    # Output to a descriptor belongs to the worker. If only one attempt ran, it belongs to that attempt.
    started = [(f, r) for f, r in zip(left, told, strict=True) if f.started(page)]
    if len(started) != 1:
        return
    flight, report = started[0]
    if isinstance(report, Ended):
        report.log = f"{report.log or ''}{death.said(flight.since(page))}" or None


def _last_word(
    death: Death, flight: Flight, verdict: Verdict, page: Page, now: Moment
) -> WorkerReport | None:
    if flight.settled:
        return last_of_settled(flight)
    if verdict is Verdict.NOTHING:
        return None
    if verdict is Verdict.RETURN:
        return Returned(token=flight.assignment.token)
    if verdict is Verdict.GIVE_UP:
        return given_up(flight, page, now, death.pid, stack_of(flight, page))
    return _charged_or_lost(death, flight, verdict, page, now)


def _charged_or_lost(death: Death, flight: Flight, verdict: Verdict, page: Page, now: Moment) -> Ended:
    stack = stack_of(flight, page) if flight.standing(page) is Standing.RUNNING else None
    charged = verdict is Verdict.CHARGE
    why = "the gateway killed its worker" if death.killed else policy.cause_of(death.status)
    outcome = Outcome.FAILED if charged else Outcome.LOST
    alone = verdict is Verdict.LOSE_ALONE or (charged and death.alone)
    return broken_off(flight, page, now, death.pid, Error("WorkerDied", why, stack), outcome, alone=alone)
