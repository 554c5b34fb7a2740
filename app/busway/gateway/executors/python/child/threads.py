"""Run sync targets in a limited number of threads of a worker."""

from __future__ import annotations

import asyncio
import queue
import threading
from collections import defaultdict, deque
from collections.abc import Callable
from time import sleep  # handler code may replace that of the module
from types import CoroutineType, GeneratorType
from typing import Any

from busway.gateway.executors.port import Ended
from busway.gateway.executors.python.child import output
from busway.gateway.executors.python.child.cputime import CpuTime
from busway.gateway.executors.python.child.invocation import Invocation
from busway.gateway.executors.python.child.lifecycle import Await, copy_decimals, prepare
from busway.gateway.executors.python.child.loading import LoadedTarget
from busway.gateway.executors.python.child.outbox import Outbox
from busway.gateway.executors.python.child.ticker import Ticker
from busway.gateway.executors.python.wire.pace import INSTANT, LAST, QUICK, STALL, UNKNOWN

_FIRST_NAP, _LONGEST_NAP = 0.0005, 0.02  # seconds


def run_attempt(invocation: Invocation, wait: Await, cpu_time: CpuTime) -> None:
    """Run one attempt in a fresh context and report it, whatever its target raises.

    `cpu_time`: counts the attempts that this thread runs.
    """
    if not invocation.begin():
        return
    try:
        target = invocation.target
        if target is None:
            raise invocation.missing()  # noqa: TRY301 - reported like any failure
        module = target.module
        if not module.ready:
            prepare(module, invocation.log, wait)
        ended = module.context.copy().run(_attempt, invocation, target)
    except BaseException as problem:  # without a target, or in its setup()
        ended = invocation.failed(problem)
    invocation.finish(ended, cpu_time)


def _attempt(invocation: Invocation, target: LoadedTarget) -> Ended:
    try:
        output.current.set(invocation.log)
        if target.module.has_decimals:
            copy_decimals()
        value = invocation.invoke(target)
        kind = type(value)
        if kind is GeneratorType:
            value = _drive(invocation, value)
        elif kind is CoroutineType:  # a wrapper hid that its function is async
            value = asyncio.run(value)
        return invocation.succeeded(value)
    except BaseException as problem:
        return invocation.failed(problem)


def _drive(invocation: Invocation, generator: GeneratorType[Any, None, Any]) -> Any:
    try:
        while True:
            _await_room(invocation)
            try:
                value = next(generator)
            except StopIteration as end:
                return end.value
            invocation.emit(value)
            invocation.check_wanted()
    finally:
        generator.close()


def _await_room(invocation: Invocation) -> None:
    # Credit arrives in shared memory, because this worker may read its socket only after this attempt.
    nap = _FIRST_NAP
    while not invocation.has_room():
        invocation.check_wanted()
        sleep(nap)
        nap = min(nap * 2, _LONGEST_NAP)


class QuickDuration:
    """Durations of one handler's quick attempts in one worker, in seconds.

    `mean`: of the recent ones. `least`: without waiting for the GIL, which other attempts may hold.
    """

    __slots__ = ("least", "mean")

    def __init__(self) -> None:
        self.mean = self.least = UNKNOWN

    def add(self, wall: float) -> None:
        """Add the duration of an attempt in seconds."""
        self.mean += (min(wall, STALL) - self.mean) / LAST
        more = min(wall, QUICK) - self.least
        self.least += more / 64 if more > 0 else more


_BATCH = 0.0004  # seconds of quick attempts given to a thread together: waking it costs more than one
_AT_ONCE = 8  # reports sent together during a batch, so that the gateway can process them meanwhile

_Batch = deque[Invocation]


class _ThreadState:
    """What a thread has to run, and its progress. `seen`: its progress at the last tick."""

    __slots__ = ("batch", "leading", "seen", "steps", "turn")

    def __init__(self) -> None:
        self.batch: _Batch = deque()
        self.steps = self.seen = 0
        self.leading = False  # it runs a batch although it is the leader, and should read
        self.turn = threading.Lock()  # held while another thread leads


class Threads:
    """Threads that start when needed and stay.

    One more thread leads: it reads attempts, runs instant ones itself, and gives the others to the other
    threads (the Leader/Followers pattern: Schmidt et al., Pattern-Oriented Software Architecture, volume 2,
    2000). When an attempt takes long, the attempts queued after it go to other threads, and another thread
    leads from then on.

    Args:
        limit: the maximum number of threads besides the leader.
        outbox: receives the reports.
        ticker: calls the check for slow attempts.
        wait: runs a coroutine of a `setup()`.
    """

    def __init__(self, limit: int, outbox: Outbox, ticker: Ticker, wait: Await) -> None:
        self._limit = limit
        self._outbox, self._ticker, self._wait = outbox, ticker, wait
        self._queue: queue.SimpleQueue[_Batch] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._states: list[_ThreadState] = []
        self._pending = self._started = 0
        self._leader: _ThreadState | None = None
        self._spare: list[_ThreadState] = []  # former leaders
        self._receive: Callable[[], list[Invocation] | None] = lambda: None
        self._over = threading.Event()
        self._problem: BaseException | None = None
        self._durations: defaultdict[str, QuickDuration] = defaultdict(QuickDuration)
        ticker.add(self._check)

    def serve(self, receive: Callable[[], list[Invocation] | None]) -> None:
        """Run the attempts that `receive` returns, until it returns None."""
        self._receive = receive
        self._start_leader()
        self._over.wait()
        if self._problem is not None:
            raise self._problem

    def _start_leader(self) -> None:
        if self._spare:
            self._leader = leader = self._spare.pop()
            leader.turn.release()
            return
        self._leader = leader = _ThreadState()
        leader.turn.acquire()
        self._states.append(leader)
        threading.Thread(target=self._lead, args=(leader,), name="busway-leader", daemon=True).start()

    def _put(self, batch: _Batch) -> None:
        with self._lock:
            self._pending += 1
            more = self._started < min(self._pending, self._limit)
            self._started += more
        self._queue.put(batch)
        if more:
            threading.Thread(target=self._work, name=f"busway-{self._started}", daemon=True).start()

    def _work(self) -> None:
        state = _ThreadState()
        self._states.append(state)
        while True:
            self._run_batch(state, self._queue.get())
            with self._lock:
                self._pending -= 1

    def _lead(self, state: _ThreadState) -> None:
        try:
            while (invocations := self._receive()) is not None:
                batch = self._share(invocations)
                if batch:
                    state.steps += 1
                    state.leading = True
                    self._run_batch(state, batch)
                    self._step_back(state)
        except BaseException as problem:
            self._problem = problem
        self._over.set()

    def _step_back(self, state: _ThreadState) -> None:
        """Continue to lead, or wait until this thread leads again."""
        with self._lock:
            state.leading = False
            if self._leader is state:
                return
            self._spare.append(state)
        state.turn.acquire()

    def _share(self, invocations: list[Invocation]) -> _Batch:
        """Give attempts that may take long to other threads. Return the instant ones."""
        mine: _Batch = deque()
        batch: _Batch = deque()
        total = 0.0
        for invocation in invocations:
            call = invocation.call
            if not call.quick:
                self._put(deque((invocation,)))
            elif self._durations[call.handler].mean <= INSTANT:
                mine.append(invocation)
            else:
                batch.append(invocation)
                total += self._durations[call.handler].least
                if total >= _BATCH:
                    self._put(batch)
                    batch, total = deque(), 0.0
        if batch:
            self._put(batch)
        return mine

    def _run_batch(self, state: _ThreadState, batch: _Batch) -> None:
        state.batch = batch
        state.steps += 1
        self._ticker.keep_awake()
        several, made, cpu_time = len(batch) > 1, 0, CpuTime()
        while batch:
            try:
                invocation = batch.popleft()
            except IndexError:
                break  # another thread has taken it
            run_attempt(invocation, self._wait, cpu_time)
            state.steps += 1
            if invocation.call.quick and invocation.wall:
                self._durations[invocation.call.handler].add(invocation.wall)
            made += 1
            if not made % _AT_ONCE:
                self._outbox.flush()
        if several or state.leading or self._queue.empty():
            self._outbox.flush()

    def _check(self) -> None:
        """Give the attempts queued after a slow attempt to other threads.

        Called at each tick, before the outbox is flushed: a thread whose queue is empty keeps its reports.
        """
        for state in list(self._states):
            if not (state.batch or (state.leading and self._leader is state)):
                continue
            self._ticker.keep_awake()
            if state.steps != state.seen:
                state.seen = state.steps
                continue
            self._replace_leader(state)
            while state.batch:
                try:
                    self._put(deque((state.batch.popleft(),)))
                except IndexError:
                    break  # its own thread has taken it

    def _replace_leader(self, state: _ThreadState) -> None:
        with self._lock:
            if state.leading and self._leader is state and state.steps == state.seen:
                self._start_leader()
