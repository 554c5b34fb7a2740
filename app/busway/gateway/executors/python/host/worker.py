"""The gateway's object for one worker: what was sent, what the worker reports, how it ends."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import signal
import socket
import time
from collections import defaultdict
from collections.abc import Callable
from enum import Enum, auto
from typing import Protocol

import msgspec

from busway.gateway.channel import Channel, Frame
from busway.gateway.executors.port import Assignment, Ended, Returned, Started, WorkerReport
from busway.gateway.executors.python.host import flight as reports
from busway.gateway.executors.python.host import stacks
from busway.gateway.executors.python.host.chatter import Chatter
from busway.gateway.executors.python.host.flight import (
    Calls,
    Death,
    Flight,
    Moment,
    is_clogged,
    obituary,
    recall,
)
from busway.gateway.executors.python.host.policy import brief_cause
from busway.gateway.executors.python.wire import protocol as wire
from busway.gateway.executors.python.wire.burial import reap
from busway.gateway.executors.python.wire.memory import Scales, resident
from busway.gateway.executors.python.wire.pace import Pace
from busway.gateway.executors.python.wire.protocol import FromWorker, Spawn, ToWorker
from busway.gateway.executors.python.wire.slots import Page, create

logger = logging.getLogger("busway.workers")

_PARTIAL, _ENDED = int(FromWorker.PARTIAL), int(FromWorker.ENDED)  # enum members are slow to look up
_SKIPPED = int(FromWorker.SKIPPED)
_MARK_AFTER = 100_000_000  # nanoseconds until a running attempt is reported as started
_HEARING = 1.0  # seconds for a retired worker to answer a ping
_STATUS_PATIENCE = 1.0  # seconds for the zygote to report a dead worker's status


class State(Enum):
    """The state of a worker."""

    BOOTING = auto()
    READY = auto()
    LEAVING = auto()  # accepts no attempts, exits when the present ones end
    RETIRED = auto()  # has an attempt that does not end; killed when the other attempts end
    ENDING = auto()  # exiting, or killed
    DEAD = auto()


ALIVE = {State.BOOTING, State.READY, State.LEAVING}


class Home(Protocol):
    """What a worker needs from its pool."""

    name: str

    def launch(self, worker: Worker, spawn: Spawn, descriptors: list[int]) -> None:
        """Ask the zygote to start the worker's process. The descriptors are copied."""

    def ready(self, worker: Worker) -> None:
        """The worker can run attempts."""

    def reported(self, worker: Worker, told: list[WorkerReport], left: list[Flight]) -> None:
        """The worker sent reports. `left`: the attempts that it no longer has."""

    def retired(self, worker: Worker) -> None:
        """The worker accepts no more attempts and needs a replacement."""

    def outgrown(self, worker: Worker) -> None:
        """The worker has grown too much. It continues until it is replaced."""

    def gone(self, worker: Worker, told: list[WorkerReport], left: list[Flight]) -> None:
        """The worker is dead and closed."""


class Worker:
    """A child process, from its start to its last report.

    Args:
        number: identifies it to the zygote.
        home: receives the notifications.
        spawn: how many sync targets, and how many attempts in total, it may have.
        grace: seconds that an overdue or cancelled attempt gets to end by itself.
        growth: bytes by which it may grow before it is replaced.
        alone: it is started for one attempt.
    """

    def __init__(
        self, number: int, home: Home, spawn: Spawn, *, grace: float, growth: int, alone: bool = False
    ) -> None:
        self.number = number
        self.pool = home.name
        self.alone = alone
        self.mark = ""
        self.pid: int | None = None
        self.state = State.BOOTING
        self.launched_at = time.monotonic()
        self.retired_at = self.idle_at = 0.0
        self.ending_at = math.inf
        self.served = 0
        self.crashed = self.clogged = False
        self.cause = "unknown"
        self.flights: dict[int, Flight] = {}
        self.sync_out = self.slow_out = self.async_out = 0
        self._home = home
        self._grace = int(grace * 1e9)
        self._seats = list(range(spawn.seats))
        self._scales = Scales(growth)
        self._killed = self._expected = self._spent = False
        self._heard = True
        self._threads = spawn.threads
        self._suspended = 0
        self._pidfd = -1
        self._mourning: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._launch(spawn)

    def _launch(self, spawn: Spawn) -> None:
        ours, theirs = socket.socketpair()
        heard, told = os.pipe()
        descriptor = create(spawn.seats)
        self.page = Page(descriptor, spawn.seats)
        self._chatter = Chatter(heard, f"worker {self.number}")
        self._channel = Channel(ours, self._take, self._hung_up)
        self._calls = Calls(self._channel)
        try:
            self._home.launch(self, spawn, [theirs.fileno(), descriptor, told])
        finally:
            theirs.close()
            os.close(told)

    def spawned(self, pid: int, pidfd: int) -> None:
        """The zygote started the process."""
        self.pid, self._pidfd = pid, pidfd
        self._chatter.who = f"worker {pid}"
        self._loop.add_reader(pidfd, self._exited)
        if self._killed:
            self.kill()

    @property
    def open(self) -> bool:
        """Whether it accepts attempts."""
        return self.state is State.READY and not self._suspended

    def send(self, assignment: Assignment, pace: Pace, *, awaits: bool, quick: bool) -> None:
        """Send an attempt. The caller has checked that there is room."""
        seat = self._seats.pop()
        token = assignment.token
        self.page.assign(seat)
        self.flights[token] = Flight(assignment, seat, time.monotonic_ns(), awaits, quick, pace)
        if awaits:
            self.async_out += 1
        else:
            self.sync_out += 1
            self.slow_out += not quick
        self._calls.add(assignment, seat, quick)

    def _take(self, frames: list[Frame]) -> None:
        told: list[WorkerReport] = []
        left: list[Flight] = []
        try:
            for kind, token, body in frames:
                if kind == _ENDED:
                    self._ended(wire.decode_ended(body), told, left)
                elif kind == _PARTIAL:
                    self._partial(token, body, told)
                elif kind == _SKIPPED:
                    self._skipped(token, told, left)
                else:
                    self._hear(kind, body)
        except (msgspec.MsgspecError, UnicodeDecodeError) as problem:  # handler code wrote to our socket
            logger.warning("killing worker %s: it sent an invalid frame (%s)", self.pid, problem)
            self._hung_up()
        if not all(flight.awaits for flight in left):
            self.clogged = False
        if told or left:
            self._home.reported(self, told, left)
        self._go_on()

    def _hear(self, kind: int, mark: bytes) -> None:
        self._heard = True
        if kind == FromWorker.READY and self.state is State.BOOTING:
            self.state = State.READY
            self.mark = mark.decode()
            self.idle_at = time.monotonic()
            self._home.ready(self)

    def _go_on(self) -> None:
        if self._spent:
            self.retire()
        if self.flights or self.state is State.RETIRED:
            self._finish_retirement()
        elif self.state is State.LEAVING:
            self.end()
        elif self.state is State.READY:
            self.idle_at = time.monotonic()
            if self._scales.idle(self.pid):
                self._home.outgrown(self)

    def _release(self, token: int) -> Flight | None:
        flight = self.flights.pop(token, None)
        if flight is None:
            return None
        self._seats.append(flight.seat)
        if flight.awaits:
            self.async_out -= 1
        else:
            self.sync_out -= 1
            self.slow_out -= not flight.quick
        if flight.strike_at is not None:
            self._suspended -= 1
        return flight

    def _ended(self, ended: list[Ended], told: list[WorkerReport], left: list[Flight]) -> None:
        clock = time.time_ns() // 1000
        took: defaultdict[Pace, list[float]] = defaultdict(list)
        for report in ended:
            if (flight := self._release(report.token)) is None:
                continue
            left.append(flight)
            took[flight.pace].append(report.wall_time)
            self._spent |= report.spent
            if report.finished_at > clock or flight.peak:
                reports.correct(report, flight, clock)
            if flight.settled:
                self._settled_left(flight, told)
            elif flight.given_up:
                told.append(reports.given_up(flight, self.page, reports.now(), self.pid, None))
            else:
                told.append(report)
        for pace, walls in took.items():
            self.served += len(walls)
            self._scales.answered(pace.handler, walls)
            pace.extend(walls)

    def _skipped(self, token: int, told: list[WorkerReport], left: list[Flight]) -> None:
        flight = self._release(token)
        if flight is not None:
            left.append(flight)
            if flight.settled:
                self._settled_left(flight, told)
            elif flight.doubted:
                told.append(Returned(token=token))

    def _settled_left(self, flight: Flight, told: list[WorkerReport]) -> None:
        last = reports.last_of_settled(flight)
        if last is not None:
            told.append(last)

    def _partial(self, token: int, body: bytes, told: list[WorkerReport]) -> None:
        flight = self.flights.get(token)
        if flight is not None and not flight.settled:
            told.append(reports.partial(token, wire.decode_piece(body)))

    def cancel(self, flight: Flight) -> None:
        """Ask an attempt to end. Nothing more is reported of it, except that it is gone."""
        flight.cancelled = flight.settled = True
        self.page.cancel(flight.seat, flight.assignment.token)

    def sweep(self, now: Moment) -> list[WorkerReport]:
        """Check the page: report long attempts, cancel overdue ones, kill for those that do not react."""
        told: list[WorkerReport] = []
        page = self.page
        if self.state is State.READY and self._scales.busy(self.pid, now.mono):
            self._home.outgrown(self)
        for flight in list(self.flights.values()):
            if flight.struck or not flight.started(page):
                continue
            if flight.assignment.memory is not None and self._exceeds(flight):
                continue
            since = flight.since(page)
            if flight.strike_at is not None:
                if now.mono >= flight.strike_at:
                    self._strike(flight)
            elif flight.cancelled:
                self._lose_patience(flight, now)
            elif now.mono - since > flight.assignment.timeout * 1e9:
                self._overdue(flight, now)
            elif not flight.marked and now.mono - since > _MARK_AFTER and self.pid is not None:
                flight.marked = True
                token = flight.assignment.token
                told.append(Started(token=token, started_at=now.wall_at(since), worker=self.pid))
        return [*told, *self._unclog(now)]

    def _unclog(self, now: Moment) -> list[WorkerReport]:
        """Return attempts that wait while all threads run slow attempts, for other workers."""
        flights = self.flights.values()
        self.clogged = is_clogged(flights, self.page, self._threads, now)
        return [*recall(flights, self.page)] if self.clogged else []

    def _exceeds(self, flight: Flight) -> bool:
        held = resident(self.pid)
        if held is None or not flight.weigh(self.page, held) or flight.settled:
            return False
        flight.excessive = flight.struck = True
        self._dump_and(self._kill_for, flight)
        return True

    def _lose_patience(self, flight: Flight, now: Moment) -> None:
        flight.strike_at = now.mono + self._grace
        self._suspended += 1

    def _overdue(self, flight: Flight, now: Moment) -> None:
        if self.page.finished(flight.seat, flight.assignment.token):
            return  # its report is on the way
        flight.overdue = True
        self.page.cancel(flight.seat, flight.assignment.token)
        self._lose_patience(flight, now)
        if self._siblings(flight):
            self._dump_and(self._settle, flight)

    def _siblings(self, flight: Flight) -> bool:
        page = self.page
        return any(f is not flight and not f.settled and f.started(page) for f in self.flights.values())

    def _settle(self, flight: Flight) -> None:
        # It cannot be killed without the worker's other attempts. So it fails now and may still run.
        if self._has(flight) and not flight.settled:
            flight.settled = True
            stack = reports.stack_of(flight, self.page)
            told = reports.given_up(flight, self.page, reports.now(), self.pid, stack, lingers=True)
            self._home.reported(self, [told], [])

    def _has(self, flight: Flight) -> bool:
        return self.state is not State.DEAD and self.flights.get(flight.assignment.token) is flight

    def _strike(self, flight: Flight) -> None:
        flight.struck = True
        if self._siblings(flight):
            self._settle(flight)
            self.retire()
        else:
            self._dump_and(self._kill_for, flight)

    def _kill_for(self, flight: Flight) -> None:
        if self._has(flight):
            flight.weigh(self.page, resident(self.pid) or 0)
            self.kill()

    def _dump_and(self, then: Callable[[Flight], None], flight: Flight) -> None:
        stacks.when_written(self._loop, self.page, lambda: self._signal(signal.SIGUSR1), lambda: then(flight))

    def retire(self) -> None:
        """Accept no more attempts. Exit when only the attempt that does not end is left."""
        if self.state in ALIVE:
            self.state = State.RETIRED
            self.retired_at = time.monotonic()
            self._home.retired(self)
            self._finish_retirement()
            if self._threads > 1:  # one thread always reads
                self._heard = False
                self._channel.send(ToWorker.PING, 0)
                self._loop.call_later(_HEARING, self._end_if_deaf)

    def _end_if_deaf(self) -> None:
        # Something holds the GIL. The other attempts cannot end, so they start again in another worker.
        if not self._heard:
            self.kill()

    def _finish_retirement(self) -> None:
        if self.state is not State.RETIRED:
            return
        if not any(not f.settled and f.started(self.page) for f in self.flights.values()):
            self.kill()

    def leave(self) -> None:
        """Accept no more attempts, and exit when the present ones end."""
        if self.state in {State.READY, State.BOOTING}:
            self.state = State.LEAVING
            if not self.flights:
                self.end()

    def end(self) -> None:
        """Let an idle worker tear down and exit."""
        if self.state in ALIVE:
            self.state = State.ENDING
            self.ending_at = time.monotonic()
            self._expected = True
            self._channel.send(ToWorker.END, 0)

    def kill(self) -> None:
        """Kill its process. Its process group is killed when it is reaped."""
        if self.state is State.DEAD:
            return
        self._killed = self._expected = True
        self.state = State.ENDING
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._pidfd >= 0:
            try:
                signal.pidfd_send_signal(self._pidfd, number)
            except ProcessLookupError:
                return

    def _hung_up(self) -> None:
        # Either it is dead, and the zygote will report that, or handler code broke our socket.
        if self.state is not State.DEAD:
            self.state = State.ENDING
            self._signal(signal.SIGKILL)

    def _exited(self) -> None:
        self._loop.remove_reader(self._pidfd)
        if not self.reap():
            self._mourning = self._loop.call_later(_STATUS_PATIENCE, self.ended, None)

    def reap(self) -> bool:
        """Reap the process if the gateway is its parent now. Return False if it runs or is not ours."""
        status = reap(self.pid) if self.pid is not None else None
        if status is None:
            return False
        self.ended(status)
        return True

    def ended(self, status: int | None) -> None:
        """Handle the end of the process, or a failed start. `status`: its wait status, None if unknown."""
        if self.state is State.DEAD:
            return
        self._channel.drain()
        self.state = State.DEAD
        left = list(self.flights.values())
        death = Death(self.pid, status, killed=self._killed, alone=self.alone, said=self._chatter.since)
        told = obituary(death, left, self.page, reports.now())
        self.cause = "killed" if self._killed else "ended" if self._expected else brief_cause(status)
        self.crashed = not self._expected and not any(isinstance(report, Ended) for report in told)
        self._close()
        self._home.gone(self, told, left)

    def _close(self) -> None:
        if self._mourning is not None:
            self._mourning.cancel()
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1
        self._channel.close()
        self._chatter.close()
        self.page.close()
