"""The gateway's object for one worker: what was sent, what the worker reports, how it ends."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import select
import signal
import time
from collections import defaultdict
from collections.abc import Callable

from busway.domain.run import Error
from busway.gateway.channel import Channel, Frame
from busway.gateway.executors.port import Assignment, Ended, Returned, WorkerReport
from busway.gateway.executors.python.host import attempt as outcomes
from busway.gateway.executors.python.host import checking, stacks
from busway.gateway.executors.python.host.attempt import (
    Calls,
    Clocks,
    Death,
    SentAttempt,
    Silence,
    is_clogged,
    recall,
    report_death,
    report_is_late,
)
from busway.gateway.executors.python.host.checking import ProtocolError
from busway.gateway.executors.python.host.ends import Ends
from busway.gateway.executors.python.host.growth import GrowthMonitor
from busway.gateway.executors.python.host.pace import Pace
from busway.gateway.executors.python.host.policy import brief_cause
from busway.gateway.executors.python.host.reaping import reap
from busway.gateway.executors.python.host.shared import Shared
from busway.gateway.executors.python.host.states import ALIVE, WorkerChange, WorkerState
from busway.gateway.executors.python.wire import protocol as wire
from busway.gateway.executors.python.wire.memory import resident
from busway.gateway.executors.python.wire.protocol import FromWorker, Spawn, ToWorker

logger = logging.getLogger("busway.workers")

_PARTIAL, _ENDED = int(FromWorker.PARTIAL), int(FromWorker.ENDED)  # enum members are slow to look up
_SKIPPED = int(FromWorker.SKIPPED)
_MARK_AFTER = 100_000_000  # nanoseconds until a running attempt is reported as started
_PING_TIMEOUT = 1.0  # seconds for a retired worker to answer a ping
_STATUS_TIMEOUT = 1.0  # seconds for the zygote to report a dead worker's status


class Worker:
    """A child process, from its start to its last report.

    Args:
        number: identifies it to the zygote.
        pool: the name of its pool.
        shared: the state that all pools share.
        listener: its pool's function that receives the changes.
        spawn: how many sync targets, and how many attempts in total, it may have.
        grace: seconds that an overdue or cancelled attempt gets to end by itself.
        growth: bytes by which it may grow before it is replaced.
        alone: it is started for one attempt.

    Raises:
        OSError: there are no descriptors or no memory for it.
    """

    def __init__(
        self,
        number: int,
        pool: str,
        shared: Shared,
        listener: Callable[[Worker, WorkerChange], None],
        spawn: Spawn,
        *,
        grace: float,
        growth: int,
        alone: bool = False,
    ) -> None:
        self.number, self.pool, self.spawn, self.alone = number, pool, spawn, alone
        self.code_digest: str | None = None
        self.pid: int | None = None
        self.state = WorkerState.BOOTING
        self.launched_at = time.monotonic()
        self.retired_at = self.idle_at = 0.0
        self.ending_at = math.inf
        self.served = 0
        self.crashed = self.clogged = False
        self.cause = "unknown"
        self.refusal: str | None = None  # why its process could not be started
        self.attempts: dict[int, SentAttempt] = {}
        self.sync_out = self.slow_out = self.async_out = 0
        self._shared, self._listener = shared, listener
        self._grace = int(grace * 1e9)
        self._seats = list(range(spawn.seats))
        self._growth = GrowthMonitor(growth)
        self._killed = self._expected = self._exhausted = False
        self._fault: str | None = None
        self._answered_ping = True
        self._silence = Silence()
        self._threads, self._suspended = spawn.threads, 0
        self._pidfd = -1
        self._status_timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        taking = (self._take, self._hung_up, self._frame_limit)
        self.ends = Ends(f"worker {number}", spawn.seats, lambda sock: Channel(sock, *taking))
        self.page, self._channel, self._output = self.ends.page, self.ends.channel, self.ends.output
        self._calls, self._output.attempts = Calls(self._channel), self.attempts

    def discard(self) -> None:
        """Close a worker whose process was never requested. Its pool is not notified."""
        self.state = WorkerState.DEAD
        self._close()

    def refused(self, why: str) -> None:
        """Handle that its process could not be started."""
        self.refusal = why
        self.ended(None)

    def spawned(self, pid: int, pidfd: int) -> None:
        """The zygote started the process."""
        self.pid, self._pidfd = pid, pidfd
        self._output.name = f"worker {pid}"
        self._loop.add_reader(pidfd, self._exited)
        if self._killed or self._fault is not None:
            self._signal(signal.SIGKILL)
        self._ready()

    def _frame_limit(self, kind: int) -> int:
        return self._shared.limits.of(kind, running=bool(self.attempts))

    @property
    def open(self) -> bool:
        """Whether it accepts attempts."""
        return self.state is WorkerState.READY and not self._suspended

    def send(self, assignment: Assignment, pace: Pace, *, awaits: bool, quick: bool) -> None:
        """Send an attempt. The caller has checked that there is room."""
        seat = self._seats.pop()
        token = assignment.token
        self.page.assign(seat)
        attempt = SentAttempt(assignment, self.page, seat, time.monotonic_ns(), awaits, quick, pace)
        self.attempts[token] = attempt
        self._shared.attempts[token] = attempt
        if assignment.exclusive and self.pid is not None:
            self._shared.lease.hold(self.pid)
        if awaits:
            self.async_out += 1
        else:
            self.sync_out += 1
            self.slow_out += not quick
        self._calls.add(assignment, seat, quick)

    def _take(self, frames: list[Frame]) -> None:
        reports: list[WorkerReport] = []
        released: list[SentAttempt] = []
        try:
            for kind, token, body in frames:
                if kind == _ENDED:
                    self._ended(wire.decode_ended(body), reports, released)
                elif kind == _PARTIAL:
                    self._partial(token, body, reports)
                elif kind == _SKIPPED:
                    self._skipped(token, reports, released)
                else:
                    self._take_other(kind, body)
        except ProtocolError as problem:
            self._hung_up(str(problem))
        except checking.INVALID as problem:
            self._hung_up(f"a frame of kind {kind} is invalid ({problem})")
        if not all(attempt.awaits for attempt in released):
            self.clogged = False
        if reports:
            self._shared.report(reports)
        if released:
            self._listener(self, WorkerChange.RELEASED)
        self._go_on()

    def _take_other(self, kind: int, body: bytes) -> None:
        if kind == FromWorker.PONG and not self._answered_ping:
            self._answered_ping = True
        elif kind == FromWorker.READY and self.code_digest is None:
            self.code_digest = body.decode()
            self._ready()
        else:
            raise ProtocolError(f"a frame of kind {kind} came while the worker was {self.state.name.lower()}")

    def _ready(self) -> None:
        # Its READY and the zygote's SPAWNED, which has the process id, arrive on two sockets, in any order.
        if self.state is WorkerState.BOOTING and self.code_digest is not None and self.pid is not None:
            self.state = WorkerState.READY
            self.idle_at = time.monotonic()
            self._listener(self, WorkerChange.READY)

    def _go_on(self) -> None:
        if self._exhausted:
            self.retire()
        if self.attempts or self.state is WorkerState.RETIRED:
            self._finish_retirement()
        elif self.state is WorkerState.LEAVING:
            self.end()
        elif self.state is WorkerState.READY:
            self.idle_at = time.monotonic()
            if self._growth.idle(self.pid):
                self._listener(self, WorkerChange.OUTGROWN)

    def _release(self, token: int) -> SentAttempt | None:
        attempt = self.attempts.pop(token, None)
        if attempt is None:
            return None
        if attempt.assignment.exclusive:
            self._shared.remove(attempt, self.pid)
        else:  # without a call
            del self._shared.attempts[token]
        self._seats.append(attempt.seat)
        if attempt.awaits:
            self.async_out -= 1
        else:
            self.sync_out -= 1
            self.slow_out -= not attempt.quick
        if attempt.kill_at is not None:
            self._suspended -= 1
        return attempt

    def _ended(self, ended: list[Ended], reports: list[WorkerReport], released: list[SentAttempt]) -> None:
        now, limits = outcomes.now(), self._shared.limits
        took: defaultdict[Pace, list[float]] = defaultdict(list)
        fault: ProtocolError | None = None
        for report in ended:
            if (attempt := self._release(report.token)) is None:
                fault = ProtocolError("the end of an attempt was reported that the worker did not have")
                continue
            released.append(attempt)
            if report.log is not None:
                self._shared.output.ended(attempt, report.log)
            took[attempt.pace].append(report.wall_time)
            self._exhausted |= report.exhausted
            try:
                checking.ended(report, attempt, now, self.pid, limits)
            except ProtocolError as problem:
                fault = problem
                self._charge(attempt, problem, reports)
                continue
            if attempt.settled:
                reports += outcomes.last_of_settled(attempt)
            elif attempt.given_up:
                # The signal for its stack may have ended the call that it was in.
                stack = attempt.stack() if attempt.stack_requested else None
                reports.append(outcomes.given_up(attempt, now, self.pid, stack))
            else:
                reports.append(report)
        for pace, walls in took.items():
            self.served += len(walls)
            self._growth.answered(pace.handler, walls)
            pace.extend(walls)
        if fault is not None:
            raise fault

    def _charge(self, attempt: SentAttempt, fault: ProtocolError, reports: list[WorkerReport]) -> None:
        if attempt.settled:
            reports += outcomes.last_of_settled(attempt)
        else:
            error = Error("WorkerDied", outcomes.fault_text(str(fault)))
            reports.append(outcomes.broken_off(attempt, outcomes.now(), self.pid, error))

    def _skipped(self, token: int, reports: list[WorkerReport], released: list[SentAttempt]) -> None:
        attempt = self._known(token)
        checking.unstarted(attempt)
        self._release(token)
        released.append(attempt)
        if attempt.settled:
            reports += outcomes.last_of_settled(attempt)
        elif attempt.recall_requested:
            reports.append(Returned(token=token))

    def _known(self, token: int) -> SentAttempt:
        attempt = self.attempts.get(token)
        if attempt is None:
            raise ProtocolError("the token of a frame belongs to no attempt that the worker has")
        return attempt

    def _partial(self, token: int, body: bytes, reports: list[WorkerReport]) -> None:
        attempt = self._known(token)
        now = outcomes.now()
        report = checking.partial(attempt, body, now, self._shared.limits)
        if attempt.settled:
            return
        if not attempt.start_reported:  # if the gateway is killed, the next one must find this attempt
            reports.append(attempt.report_start(now, self.pid))
        reports.append(report)

    def sweep(self, now: Clocks) -> list[WorkerReport]:
        """Check the page: report long attempts, cancel overdue ones, kill for those that do not react."""
        reports: list[WorkerReport] = []
        self._silence.check(self.attempts.values(), self.served, now)
        self._shared.output.look(self.attempts.values())
        if self.state is WorkerState.READY and self._growth.busy(self.pid, now.mono):
            self._listener(self, WorkerChange.OUTGROWN)
        for attempt in list(self.attempts.values()):
            if attempt.kill_started or not attempt.started():
                continue
            if attempt.assignment.memory is not None and self._exceeds(attempt):
                continue
            ran = attempt.ran(now)
            if attempt.kill_at is not None:
                if now.mono >= attempt.kill_at:
                    self._kill_or_retire(attempt)
            elif attempt.cancelled:
                self._start_grace(attempt, now)
            elif ran > attempt.assignment.timeout * 1e9:
                self._overdue(attempt, now)
            elif not attempt.start_reported and ran > _MARK_AFTER and self.pid is not None:
                reports.append(attempt.report_start(now, self.pid))
        return [*reports, *self._unclog(now)]

    def stood_still(self, duration: int, now: Clocks) -> None:
        """Move all deadlines: the gateway was stopped until now, for that many nanoseconds."""
        for attempt in self.attempts.values():
            attempt.stood_still(duration, now)
        self.launched_at += duration / 1e9
        self.retired_at += duration / 1e9
        self.ending_at += duration / 1e9

    def _unclog(self, now: Clocks) -> list[WorkerReport]:
        """Return attempts that wait while all threads run slow attempts, for other workers."""
        self.clogged = is_clogged(self.attempts.values(), self._threads, now)
        return [*recall(self.attempts.values())] if self.clogged else []

    def _exceeds(self, attempt: SentAttempt) -> bool:
        held = resident(self.pid)
        if held is None or not attempt.record_memory(held) or attempt.settled:
            return False
        attempt.excessive = attempt.kill_started = True
        self._dump_and(self._kill_for, attempt)
        return True

    def _start_grace(self, attempt: SentAttempt, now: Clocks) -> None:
        attempt.kill_at = now.mono + self._grace
        self._suspended += 1

    def _overdue(self, attempt: SentAttempt, now: Clocks) -> None:
        if attempt.finished() and not report_is_late(attempt, now):
            return  # its report is on the way
        attempt.overdue = True
        self.page.cancel(attempt.seat, attempt.assignment.token)
        self._start_grace(attempt, now)
        if self._siblings(attempt):
            self._dump_and(self._settle, attempt)

    def _siblings(self, attempt: SentAttempt) -> bool:
        return any(f is not attempt and not f.settled and f.started() for f in self.attempts.values())

    def _settle(self, attempt: SentAttempt) -> None:
        # It cannot be killed without the worker's other attempts. So it fails now and may still run.
        if self._has(attempt) and not attempt.settled:
            attempt.settled = True
            self._shared.output.all_ended([attempt])
            now, stack = outcomes.now(), attempt.stack()
            self._shared.report([outcomes.given_up(attempt, now, self.pid, stack, lingers=True)])

    def _has(self, attempt: SentAttempt) -> bool:
        return self.state is not WorkerState.DEAD and self.attempts.get(attempt.assignment.token) is attempt

    def _kill_or_retire(self, attempt: SentAttempt) -> None:
        attempt.kill_started = True
        if self._siblings(attempt):
            self._settle(attempt)
            self.retire()
        else:
            self._dump_and(self._kill_for, attempt)

    def _kill_for(self, attempt: SentAttempt) -> None:
        if self._has(attempt):
            attempt.record_memory(resident(self.pid) or 0)
            self.kill()

    def _dump_and(self, then: Callable[[SentAttempt], None], attempt: SentAttempt) -> None:
        attempt.stack_requested = True
        stacks.when_written(
            self._loop, self.page, lambda: self._signal(signal.SIGUSR1), lambda: then(attempt)
        )

    def retire(self) -> None:
        """Accept no more attempts. Exit when only the attempt that does not end is left."""
        if self.state in ALIVE:
            self.state = WorkerState.RETIRED
            self.retired_at = time.monotonic()
            self._listener(self, WorkerChange.RETIRED)
            self._finish_retirement()
            if self._threads > 1:  # one thread always reads
                self._answered_ping = False
                self._channel.send(ToWorker.PING, 0)
                self._loop.call_later(_PING_TIMEOUT, self._kill_if_silent)

    def _kill_if_silent(self) -> None:
        # Something holds the GIL. The other attempts cannot end, so they start again in another worker.
        if not self._answered_ping:
            self.kill()

    def _finish_retirement(self) -> None:
        if self.state is not WorkerState.RETIRED:
            return
        if not any(not f.settled and f.started() for f in self.attempts.values()):
            self.kill()

    def leave(self) -> None:
        """Accept no more attempts, and exit when the present ones end."""
        if self.state in {WorkerState.READY, WorkerState.BOOTING}:
            self.state = WorkerState.LEAVING
            if not self.attempts:
                self.end()

    def end(self) -> None:
        """Let an idle worker tear down and exit."""
        if self.state in ALIVE:
            self.state = WorkerState.ENDING
            self.ending_at = time.monotonic()
            self._expected = True
            self._channel.send(ToWorker.END, 0)

    def kill(self) -> None:
        """Kill its process. Its process group is killed when it is reaped."""
        if self.state is WorkerState.DEAD:
            return
        self._killed = self._expected = True
        self.state = WorkerState.ENDING
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except ProcessLookupError:
                return

    def _hung_up(self, fault: str | None) -> None:
        # Either it is dead, and the zygote will report that, or handler code used our socket.
        if self.state is not WorkerState.DEAD:
            if fault is not None:
                logger.warning("killing worker %s: it broke the protocol: %s", self.pid, fault)
                self._fault = fault
                self._channel.close()
            self.state = WorkerState.ENDING
            self._signal(signal.SIGKILL)

    def _exited(self) -> None:
        self._loop.remove_reader(self._pidfd)
        if not self.reap():
            self._status_timer = self._loop.call_later(_STATUS_TIMEOUT, self.ended, None)

    def has_exited(self) -> bool:
        """Return whether its process has ended."""
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(0))

    def reap(self) -> bool:
        """Reap the process if the gateway is its parent now. Return False if it runs or is not ours."""
        status = reap(self.pid) if self.pid is not None else None
        if status is not None:
            self.ended(status)
        return status is not None

    def ended(self, status: int | None) -> None:
        """Handle the end of the process, or a failed start. `status`: its wait status, None if unknown."""
        if self.state is WorkerState.DEAD:
            return
        self._channel.drain()
        self.state = WorkerState.DEAD
        released = list(self.attempts.values())
        self._shared.output.all_ended(released)
        death = Death(
            self.pid,
            status,
            killed=self._killed,
            lapsed=outcomes.lapsed(released, self._shared.lease),
            fault=self._fault,
            alone=self.alone,
            output_since=self._output.since,
        )
        reports = report_death(death, released, outcomes.now())
        cause = "killed" if self._killed else "ended" if self._expected else brief_cause(status)
        self.cause = "protocol error" if self._fault else "not started" if self.refusal else cause
        self.crashed = not self._expected and not any(isinstance(report, Ended) for report in reports)
        for attempt in released:
            self._shared.remove(attempt, self.pid)
        self._close()
        if reports:
            self._shared.report(reports)
        self._listener(self, WorkerChange.DEAD)

    def _close(self) -> None:
        if self._status_timer is not None:
            self._status_timer.cancel()
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        self.ends.close()
