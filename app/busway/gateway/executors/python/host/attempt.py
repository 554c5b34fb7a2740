"""Attempts that were sent to a worker, and the reports that end them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable, Sequence

import msgspec

from busway.domain.run import Error, Outcome
from busway.gateway.channel import Channel
from busway.gateway.executors.port import Assignment, Ended, Gone, Returned, Started, WorkerReport
from busway.gateway.executors.python.host import policy
from busway.gateway.executors.python.host.pace import Pace
from busway.gateway.executors.python.host.policy import AttemptPhase, DeathVerdict
from busway.gateway.executors.python.wire import protocol as wire
from busway.gateway.executors.python.wire.lease import Lease
from busway.gateway.executors.python.wire.memory import MIB
from busway.gateway.executors.python.wire.protocol import Call, ToWorker
from busway.gateway.executors.python.wire.slots import Page


class SentAttempt(msgspec.Struct, eq=False):
    """An attempt from sending until its report. Times in monotonic nanoseconds.

    `page` and `seat`: where its worker writes its progress. `quick`: attempts of its handler are quick and
    may queue in the worker. `overdue`: it timed out. `peak`: the most memory measured, in bytes;
    `excessive`: that is over its limit. `settled`: it was reported, or needs no report, but may still run.
    `recall_requested`: do not start it. `recalled`: it did not start, and goes to another worker.
    `kill_at`: when the grace of an overdue or cancelled attempt ends. `kill_started`: its worker is being
    killed or retired for it. `stack_requested`: its worker got a signal to write the stacks. `begun`: when it
    started, as first seen in the page, which handler code can change later; `thread`: the ident of its
    thread, and `held`: the memory of its worker before it, likewise. `stopped`: nanoseconds since then for
    which the gateway was stopped; they do not count for the timeout. `received`: its partials; `credited`,
    `credited_bytes`: those of them that are stored. `shown`: bytes of its output that are in the gateway's
    log; `unfinished`: the last of them, which are not a whole line yet and wait.
    """

    assignment: Assignment
    page: Page
    seat: int
    sent_at: int
    awaits: bool
    quick: bool
    pace: Pace
    start_reported: bool = False
    overdue: bool = False
    excessive: bool = False
    peak: int = 0
    cancelled: bool = False
    settled: bool = False
    recall_requested: bool = False
    recalled: bool = False
    kill_started: bool = False
    stack_requested: bool = False
    kill_at: int | None = None
    begun: int | None = None
    stopped: int = 0
    thread: int = 0
    held: int = 0
    received: int = 0
    credited: int = 0
    credited_bytes: int = 0
    shown: int = 0
    unfinished: bytes = b""

    def started(self) -> bool:
        """Return whether its worker has started it."""
        if self.begun is None and self.page.started(self.seat, self.assignment.token):
            # Never before it was sent: another CPU may see an old value in the page.
            self.begun = min(max(self.page.since(self.seat), self.sent_at), time.monotonic_ns())
            self.thread = self.page.thread(self.seat)
            self.stopped = 0
        return self.begun is not None

    def finished(self) -> bool:
        """Return whether its target has returned, so that its report is on the way."""
        return self.page.finished(self.seat, self.assignment.token)

    @property
    def given_up(self) -> bool:
        """Whether it fails in any case, because it timed out or took too much memory."""
        return self.overdue or self.excessive

    def cancel(self) -> None:
        """Ask it to end. Nothing more is reported of it, except that it is gone."""
        self.cancelled = self.settled = True
        self.page.cancel(self.seat, self.assignment.token)

    def credit(self, size: int) -> None:
        """Allow it to send another partial: one of `size` bytes was stored."""
        self.credited += 1
        self.credited_bytes += size
        self.page.credit(self.seat, self.credited, self.credited_bytes)

    def stack(self) -> str | None:
        """Return the stack of its thread from the latest faulthandler dump, None if there is none."""
        return policy.stack_of_thread(self.page.dumped(), self.thread) if self.started() else None

    def record_memory(self, held: int) -> bool:
        """Record the memory that its worker holds, in bytes. Return True if the attempt is over its limit."""
        limit = self.assignment.memory
        self.held = self.held or min(held, self.page.recorded_memory(self.seat))
        if limit is None or not self.held:
            return False
        self.peak = max(self.peak, held - self.held)
        return self.peak > limit * MIB

    def since(self) -> int:
        """Return when it started, or when it was sent if it did not."""
        self.started()
        return self.sent_at if self.begun is None else self.begun

    def stood_still(self, duration: int, now: Clocks) -> None:
        """Record that the gateway was stopped until now, for that many nanoseconds."""
        self.stopped += min(duration, now.mono - self.since())
        if self.kill_at is not None:
            self.kill_at += duration

    def ran(self, now: Clocks) -> int:
        """Return for how many nanoseconds it has run, without those for which the gateway was stopped."""
        return now.mono - self.since() - self.stopped

    def report_start(self, now: Clocks, worker: int | None) -> Started:
        """Return the report that it has started. Called once: `start_reported` is set."""
        self.start_reported = True
        return Started(token=self.assignment.token, started_at=now.wall_at(self.since()), worker=worker)

    def phase(self) -> AttemptPhase:
        """Return how far it was when its worker died."""
        if self.settled:
            return AttemptPhase.SETTLED if self.started() else AttemptPhase.UNSTARTED
        if not self.started():
            return AttemptPhase.UNSTARTED
        if self.given_up:
            return AttemptPhase.OVERDUE
        return AttemptPhase.RETURNED if self.finished() else AttemptPhase.RUNNING


class Clocks(msgspec.Struct, frozen=True):
    """The current time on both clocks: `mono` in nanoseconds, `wall` in microseconds since 1970."""

    mono: int
    wall: int

    def wall_at(self, mono: int) -> int:
        """Convert a monotonic time to microseconds since 1970."""
        return self.wall - (self.mono - mono) // 1000


def now() -> Clocks:
    """Read both clocks."""
    return Clocks(time.monotonic_ns(), time.time_ns() // 1000)


def given_up(
    attempt: SentAttempt,
    now: Clocks,
    worker: int | None,
    stack: str | None,
    *,
    lingers: bool = False,
) -> Ended:
    """Return the report of an attempt that timed out or took too much memory."""
    if attempt.excessive:
        error = Error("MemoryExceeded", _excess(attempt), stack)
    else:
        error = Error("Timeout", f"ran longer than {attempt.assignment.timeout:g} s", stack)
    return broken_off(attempt, now, worker, error, lingers=lingers)


def _excess(attempt: SentAttempt) -> str:
    used, limit = -(-attempt.peak // MIB), attempt.assignment.memory
    return f"used {used} MiB, the limit is {limit} MiB: use less memory, or raise the handler's `memory`"


def broken_off(
    attempt: SentAttempt,
    now: Clocks,
    worker: int | None,
    error: Error,
    outcome: Outcome = Outcome.FAILED,
    *,
    alone: bool = False,
    lingers: bool = False,
) -> Ended:
    """Return the report of an attempt that the worker never reported, or reported too late."""
    since = attempt.since()
    return Ended(
        token=attempt.assignment.token,
        outcome=outcome,
        started_at=now.wall_at(since),
        finished_at=now.wall,
        worker=worker,
        wall_time=max(0.0, (now.mono - since) / 1e9),
        peak_memory=attempt.peak or None,
        error=error,
        log=attempt.page.printed(attempt.seat),
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


def is_clogged(attempts: Collection[SentAttempt], threads: int, now: Clocks) -> bool:
    """Return whether every thread of a worker runs a slow attempt."""
    if len(attempts) < threads:
        return False
    long = sum(not f.awaits and f.started() and now.mono - f.since() > _LONG for f in attempts)
    return long >= threads


def recall(attempts: Collection[SentAttempt]) -> list[Returned]:
    """Take back the attempts that a clogged worker has not started. Call it at each check of its page.

    The first check tells the worker not to start them. Only the next check returns them for another worker,
    because only then the worker must have seen it.
    """
    reports: list[Returned] = []
    for attempt in attempts:
        if attempt.awaits or attempt.settled or attempt.started():
            continue
        if attempt.recall_requested:
            attempt.settled = attempt.recalled = True
            reports.append(Returned(token=attempt.assignment.token))
        else:
            attempt.recall_requested = True
            attempt.page.recall(attempt.seat, attempt.assignment.token)
    return reports


_SILENCE = 5_000_000_000  # nanoseconds in which a worker that is free starts an attempt, or a report arrives


def report_is_late(attempt: SentAttempt, now: Clocks) -> bool:
    """Return whether an attempt that is over its time has not been reported for too long."""
    return attempt.ran(now) > attempt.assignment.timeout * 1e9 + _SILENCE


class Silence:
    """Notices a worker that starts none of its attempts.

    Something holds its GIL, or handler code has cleared the page.
    """

    __slots__ = ("_served", "_since")

    def __init__(self) -> None:
        self._since = self._served = 0

    def check(self, attempts: Collection[SentAttempt], served: int, now: Clocks) -> None:
        """Let the oldest attempt count as started if none was started for as long as it may take.

        `served`: how many attempts the worker has reported.
        """
        if served != self._served or any(f.started() for f in attempts):
            self._since, self._served = now.mono, served
            return
        oldest = next(iter(attempts))
        since = max(self._since, oldest.sent_at + oldest.stopped)
        if now.mono - since > oldest.assignment.timeout * 1e9 + _SILENCE:
            oldest.begun = since


LAPSED = (
    "killed because this node could not reach the database in time: another node may have started the next "
    "attempt, and attempts of this handler must not overlap"
)


def lapsed(attempts: Iterable[SentAttempt], lease: Lease) -> bool:
    """Return whether the lease ended while a worker had exclusive ones of these attempts."""
    return any(each.assignment.exclusive and lease.lapsed_since(each.sent_at) for each in attempts)


def last_of_settled(attempt: SentAttempt) -> list[Gone]:
    """Return the report that a settled attempt no longer runs, none if it was recalled."""
    return [] if attempt.recalled else [Gone(token=attempt.assignment.token)]


class Death(msgspec.Struct, frozen=True):
    """How a worker ended.

    `status`: its wait status, None if unknown. `killed`: the gateway killed it. `lapsed`: the lease of the
    node ended while it had exclusive attempts. `fault`: why, if it broke the protocol. `alone`: it was
    started for one attempt. `output_since`: returns the last lines of its output since a time in monotonic
    nanoseconds.
    """

    pid: int | None
    status: int | None
    killed: bool
    lapsed: bool
    fault: str | None
    alone: bool
    output_since: Callable[[int], str]


def report_death(death: Death, released: list[SentAttempt], now: Clocks) -> list[WorkerReport]:
    """Return the reports of the attempts that a dead worker had."""
    phases = [f.phase() for f in released]
    if death.fault is not None:
        phases = _suspected(phases)
    verdicts = policy.verdicts(phases, killed=death.killed or death.lapsed, alone=death.alone)
    reports = [_final_report(death, f, verdict, now) for f, verdict in zip(released, verdicts, strict=True)]
    _attribute_output(death, released, reports)
    return [report for report in reports if report is not None]


def fault_text(fault: str) -> str:
    """Return the message of an attempt whose worker broke the protocol."""
    return f"its worker was killed because it broke the protocol: {fault}"


def _suspected(phases: list[AttemptPhase]) -> list[AttemptPhase]:
    """Return the phases of attempts one of which has broken the protocol.

    It may be the report of an attempt that has returned. It may also have changed what the page says.
    """
    phases = [AttemptPhase.RUNNING if phase is AttemptPhase.RETURNED else phase for phase in phases]
    if phases and all(phase is AttemptPhase.UNSTARTED for phase in phases):
        phases[0] = AttemptPhase.RUNNING
    return phases


def _attribute_output(
    death: Death, released: list[SentAttempt], reports: Sequence[WorkerReport | None]
) -> None:
    # Output to a descriptor belongs to the worker. If only one attempt ran, it belongs to that attempt.
    started = [(f, r) for f, r in zip(released, reports, strict=True) if f.started()]
    if len(started) != 1:
        return
    attempt, report = started[0]
    if isinstance(report, Ended):
        report.log = f"{report.log or ''}{death.output_since(attempt.since())}" or None


def _final_report(
    death: Death, attempt: SentAttempt, verdict: DeathVerdict, now: Clocks
) -> WorkerReport | None:
    if attempt.settled:
        return next(iter(last_of_settled(attempt)), None)
    if verdict is DeathVerdict.NOTHING:
        return None
    if verdict is DeathVerdict.RETURN:
        return Returned(token=attempt.assignment.token, died=True)
    if verdict is DeathVerdict.GIVE_UP:
        return given_up(attempt, now, death.pid, attempt.stack())
    return _charged_or_lost(death, attempt, verdict, now)


def _charged_or_lost(death: Death, attempt: SentAttempt, verdict: DeathVerdict, now: Clocks) -> Ended:
    stack = attempt.stack() if attempt.phase() is AttemptPhase.RUNNING else None
    charged = verdict is DeathVerdict.CHARGE
    why = "the gateway killed its worker" if death.killed else policy.cause_of(death.status)
    if death.lapsed:
        why = LAPSED
    if death.fault is not None:
        why = fault_text(death.fault)
    outcome = Outcome.FAILED if charged else Outcome.LOST
    alone = verdict is DeathVerdict.LOSE_ALONE or (charged and death.alone)
    return broken_off(attempt, now, death.pid, Error("WorkerDied", why, stack), outcome, alone=alone)
