"""A pool of workers: single-threaded processes, or one process with many threads."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import msgspec

from busway.domain.callables import ASYNC
from busway.gateway.executors.port import Assignment, Returned
from busway.gateway.executors.python.host.launcher import Launcher
from busway.gateway.executors.python.host.pace import Pace
from busway.gateway.executors.python.host.shared import Shared
from busway.gateway.executors.python.host.states import WorkerChange, WorkerState
from busway.gateway.executors.python.host.worker import Worker
from busway.gateway.executors.python.wire.memory import MIB, resident
from busway.gateway.executors.python.wire.pace import INSTANT
from busway.gateway.executors.python.wire.protocol import Spawn

logger = logging.getLogger("busway.workers")

QUEUE = 64  # quick attempts that may wait in one worker
_TOGETHER = 32  # instant attempts in one worker before the next worker gets any
_RETIRED_AT_ONCE = 2
_ALONE_AT_ONCE = 4
_RETIREMENT = 30.0  # seconds that a retired worker gives its other attempts
_BOOT_TIMEOUT = 60.0  # seconds
_TEARDOWN_TIMEOUT = 10.0  # seconds
_FIRST_DELAY, _LONGEST_DELAY = 0.05, 5.0  # seconds before the next start, in a crash loop


class PoolConfig(msgspec.Struct, frozen=True):
    """The size of a pool, and the limits of its workers.

    `coroutines`: the maximum in one worker. `grace` in seconds. `growth`: bytes by which a worker may grow
    before it is replaced.
    """

    processes: int
    threads: int
    coroutines: int
    grace: float
    growth: int


class Pool:
    """Its workers start when it is first needed. An attempt goes to the worker with the fewest.

    Args:
        name: `process`, `process:async`, `thread` or `memory:HANDLER`.
        config: its size, and the limits of its workers.
        shared: the state that all pools share.
        launcher: starts the workers.
        numbers: returns the next worker number.
    """

    measures_memory = False  # whether its workers write their memory to the page before each attempt

    def __init__(
        self, name: str, config: PoolConfig, shared: Shared, launcher: Launcher, numbers: Callable[[], int]
    ) -> None:
        self.name = name
        self.config = config
        self.wanted = False
        self.workers: list[Worker] = []
        self.retirees: list[Worker] = []
        self.leavers: list[Worker] = []
        self.successors: dict[Worker, Worker] = {}
        self.dedicated: dict[Worker, Assignment | None] = {}
        self._shared, self._launcher, self._numbers = shared, launcher, numbers
        self._paces: dict[str, Pace] = {}
        self._failures = 0
        self._last_failure: str | None = None
        self._refusal: str | None = None
        self._delayed: asyncio.TimerHandle | None = None
        self._most = max(QUEUE, config.threads)

    def all_workers(self) -> list[Worker]:
        """Return all workers that are not dead."""
        return [*self.workers, *self.retirees, *self.leavers, *self.successors, *self.dedicated]

    def needs_checks(self) -> bool:
        """Return whether it has a worker that needs checks."""
        return any(worker.state is not WorkerState.READY or worker.attempts for worker in self.all_workers())

    def complete(self) -> bool:
        """Return whether all its workers can run attempts."""
        ready = sum(worker.state is WorkerState.READY for worker in self.workers)
        return ready >= self.config.processes

    def want(self) -> None:
        """Mark the pool as needed, and start its workers if they are not running."""
        self.wanted = True
        self.fill()

    def fill(self) -> None:
        """Start the missing workers, now or after the delay of a crash loop."""
        if not self.wanted or not self._launcher.open or self._delayed:
            return
        while len(self.workers) < self.config.processes:
            worker = self._worker(self.config.threads)
            if worker is None:
                return
            self.workers.append(worker)

    def _worker(self, threads: int, *, alone: bool = False) -> Worker | None:
        """Start a worker. If there are no resources for it, delay the next start and return None."""
        config = self.config
        try:
            worker = Worker(
                self._numbers(),
                self.name,
                self._shared,
                self._changed,
                Spawn(threads, self._most + config.coroutines, self.measures_memory),
                grace=config.grace,
                growth=config.growth,
                alone=alone,
            )
            self._launcher.launch(worker)
        except OSError as problem:
            self._cannot_start(problem.strerror or str(problem))
            return None
        return worker

    def offer(self, assignment: Assignment) -> bool:
        """Send an attempt to a worker. Return False if there is no room."""
        if not self.wanted:
            self.want()
        if assignment.alone:
            return self._offer_alone(assignment)
        pace = self._paces.get(assignment.handler)
        if pace is None:
            pace = self._pace(assignment.handler)
        awaits = assignment.kind in ASYNC
        quick = pace.quick and not awaits
        instant = quick and pace.mean <= INSTANT
        worker = self._free_for_async() if awaits else self._free_for_sync(quick, instant)
        if worker is None:
            return False
        worker.send(assignment, pace, awaits=awaits, quick=quick)
        return True

    def _pace(self, handler: str) -> Pace:
        return self._paces.setdefault(handler, Pace(handler))

    def _free_for_sync(self, quick: bool, instant: bool) -> Worker | None:
        """Find a worker with a free thread. Quick attempts may also queue, unless all threads run slow ones.

        Instant attempts share one worker as long as they are few.
        """
        threads, best, least = self.config.threads, None, 1 << 30
        for worker in self.workers:
            load = len(worker.attempts)
            if load >= least or not worker.open or worker.clogged:
                continue
            out = worker.sync_out
            if instant and out < _TOGETHER and not worker.slow_out:
                return worker
            if out < threads or (quick and worker.slow_out < threads and out < self._most):
                best, least = worker, load
        return best

    def _free_for_async(self) -> Worker | None:
        """Find a worker for a coroutine.

        In the thread pool it may have sync attempts, too. If it has one thread (`--threads 1`), it reads no
        frames while it runs a sync target: skip it then.
        """
        single, best, least = self.config.threads == 1, None, 1 << 30
        for worker in self.workers:
            full = worker.async_out >= self.config.coroutines or (single and worker.sync_out)
            if not full and len(worker.attempts) < least and worker.open:
                best, least = worker, len(worker.attempts)
        return best

    def _offer_alone(self, assignment: Assignment) -> bool:
        if len(self.dedicated) >= _ALONE_AT_ONCE or not self._launcher.open or self._delayed:
            return False
        worker = self._worker(1, alone=True)
        if worker is None:
            return False
        self.dedicated[worker] = assignment
        return True

    def withdraw(self, token: int) -> bool:
        """Take back an attempt that waits for a worker of its own. Return False if this token does not."""
        for worker, assignment in self.dedicated.items():
            if assignment is not None and assignment.token == token:
                self.dedicated[worker] = None
                worker.kill()
                return True
        return False

    def pending(self) -> list[int]:
        """Return the tokens of attempts that wait for a worker of their own."""
        return [a.token for a in self.dedicated.values() if a is not None]

    def check(self, now: float) -> None:
        """Kill workers that did not boot or exit in time, and retired ones whose time is over."""
        for worker in self.all_workers():
            late = worker.state is WorkerState.BOOTING and now - worker.launched_at > _BOOT_TIMEOUT
            stuck = worker.state is WorkerState.ENDING and now - worker.ending_at > _TEARDOWN_TIMEOUT
            if (
                late
                or stuck
                or (worker.state is WorkerState.RETIRED and now - worker.retired_at > _RETIREMENT)
            ):
                worker.kill()

    def _changed(self, worker: Worker, change: WorkerChange) -> None:
        if change is WorkerChange.RELEASED:
            self._released(worker)
        elif change is WorkerChange.READY:
            self._ready(worker)
        elif change is WorkerChange.RETIRED:
            self._retired(worker)
        elif change is WorkerChange.OUTGROWN:
            self._outgrown(worker)
        else:
            self._dead(worker)

    def _released(self, worker: Worker) -> None:
        """Use the worker's free room. A worker that was started for this attempt exits."""
        self._failures, self._last_failure = 0, None
        if worker.alone and not worker.attempts:
            worker.end()
        if self._shared.closed:
            self._shared.changed.set()
        self._shared.room()

    def _ready(self, worker: Worker) -> None:
        """Use the worker from now on, if it has the same code as the others."""
        if worker.code_digest not in {"", self._launcher.code_digest}:
            worker.kill()
            self._launcher.outdated()
            return
        if self._refusal is not None:
            self._failures, self._refusal, self._last_failure = 0, None, None
        assignment = self.dedicated.get(worker)
        if assignment is not None and self._shared.lease.ended():
            worker.kill()  # which returns the attempt
        elif assignment is not None:
            self.dedicated[worker] = None
            awaits = assignment.kind in ASYNC
            worker.send(assignment, self._pace(assignment.handler), awaits=awaits, quick=False)
        elif worker in self.successors:
            self._replace(worker)
        self._shared.changed.set()
        self._shared.room()

    def _outgrown(self, worker: Worker) -> None:
        """Start a replacement, which takes over when it is ready."""
        expected = worker in self.successors.values()
        if worker not in self.workers or expected or self._delayed:
            return
        if not self._launcher.open:
            return
        successor = self._worker(self.config.threads)
        if successor is not None:
            grown = self.config.growth // MIB
            logger.info("worker %s grew by %d MiB or more: replacing it", worker.pid, grown)
            self.successors[successor] = worker

    def _replace(self, successor: Worker) -> None:
        old = self.successors.pop(successor)
        self.workers.append(successor)
        if old in self.workers:
            self._dismiss(old)

    def _dismiss(self, worker: Worker) -> None:
        self.workers.remove(worker)
        self.leavers.append(worker)
        worker.leave()

    def leave(self) -> None:
        """Let all workers exit when their attempts end, and start no more: other pools take over."""
        self.wanted = False
        for worker in [*self.workers, *self.successors]:
            worker.leave()

    def _retired(self, worker: Worker) -> None:
        """Start a replacement. If too many workers are retired, the oldest is killed."""
        for ours in (self.workers, self.leavers):
            if worker in ours:
                ours.remove(worker)
                self.retirees.append(worker)
        if len(self.retirees) > _RETIRED_AT_ONCE:
            self.retirees[0].kill()
        self.fill()

    def _dead(self, worker: Worker) -> None:
        """Return the attempt that waited for the worker, and start a replacement."""
        pending = self.dedicated.pop(worker, None)
        self._remove(worker)
        self._launcher.closed(worker)
        self._shared.deaths[self.name.partition(":")[0]][worker.cause] += 1
        if pending is not None:
            self._shared.report([Returned(token=pending.token)])
        if worker.refusal is not None:
            self._cannot_start(worker.refusal)
        elif worker.crashed:
            self._last_failure = f"a worker without an attempt: {worker.cause}"
            self._slow_down()
        self.fill()
        self._shared.changed.set()
        self._shared.room()

    def _remove(self, worker: Worker) -> None:
        for ours in (self.workers, self.retirees, self.leavers):
            if worker in ours:
                ours.remove(worker)
        self.successors.pop(worker, None)
        for successor, old in list(self.successors.items()):
            if old is worker:
                del self.successors[successor]
                self.workers.append(successor)

    def _cannot_start(self, why: str) -> None:
        """Delay the next start: there are no descriptors, no memory or no processes for it."""
        if self._refusal != why:
            logger.error("a worker of the pool %s cannot be started, it is retried: %s", self.name, why)
        self._refusal = self._last_failure = why
        self._slow_down(free=0)

    def _slow_down(self, free: int = 1) -> None:
        """Delay the next start, if there were more than `free` failures in a row."""
        self._failures += 1
        if self._failures > free and self._delayed is None:
            delay = min(_LONGEST_DELAY, _FIRST_DELAY * 2 ** min(self._failures - free - 1, 10))
            self._delayed = asyncio.get_running_loop().call_later(delay, self._resume)

    def _resume(self) -> None:
        """Start the missing workers, and take the attempts that were refused during the delay."""
        self._delayed = None
        self.fill()
        self._shared.room()

    def stop(self) -> None:
        """Kill all workers."""
        if self._delayed is not None:
            self._delayed.cancel()
            self._delayed = None
        for worker in self.all_workers():
            worker.kill()

    def _crash_loop(self) -> dict[str, Any] | None:
        """Describe successive deaths of workers without an attempt. `next_start_in` is in seconds."""
        if self._failures < 2:
            return None
        wait = self._delayed.when() - asyncio.get_running_loop().time() if self._delayed else 0.0
        return {
            "deaths": self._failures,
            "last": self._last_failure,
            "next_start_in": round(max(0.0, wait), 3),
        }

    def status(self) -> dict[str, Any]:
        """Describe the pool for `/v1/status`."""
        obstacles = (worker.ends.channel.obstacle for worker in self.all_workers())
        return {
            "processes": self.config.processes,
            "threads": self.config.threads,
            "running": sum(len(worker.attempts) for worker in self.all_workers()),
            "delayed": self._delayed is not None,
            "crash_loop": self._crash_loop(),
            "error": self._refusal or next(filter(None, obstacles), None),
            "workers": [describe(worker) for worker in self.all_workers() if worker.pid is not None],
        }


def describe(worker: Worker) -> dict[str, Any]:
    """Describe a worker for `/v1/status`. Memory in bytes, age in seconds."""
    return {
        "pid": worker.pid,
        "state": worker.state.name.lower(),
        "running": len(worker.attempts),
        "served": worker.served,
        "alone": worker.alone,
        "memory": resident(worker.pid),
        "age": round(time.monotonic() - worker.launched_at, 3),
    }


_LINGER = 5.0  # seconds without an attempt after which a worker ends


class MemoryPool(Pool):
    """A pool for a handler with a memory limit. Workers start on demand and run one attempt at a time."""

    measures_memory = True

    def fill(self) -> None:
        """Do nothing: `offer` starts workers."""

    def complete(self) -> bool:
        """Return True: it never has to wait for workers."""
        return True

    def needs_checks(self) -> bool:
        """Return whether it has workers: idle ones must be stopped."""
        return bool(self.all_workers())

    def idle(self) -> bool:
        """Return whether it has no worker and no pending delay."""
        return not self.all_workers() and self._delayed is None

    def offer(self, assignment: Assignment) -> bool:
        """Send an attempt to a worker. Return False if there is no room, or not yet."""
        self.wanted = True
        if assignment.alone:
            return self._offer_alone(assignment)
        for worker in self.workers:
            if worker.open and not worker.attempts:
                awaits = assignment.kind in ASYNC
                worker.send(assignment, self._pace(assignment.handler), awaits=awaits, quick=False)
                return True
        self._grow()
        return False

    def _grow(self) -> None:
        booting = any(worker.state is WorkerState.BOOTING for worker in self.workers)
        if booting or self._delayed or not self._launcher.open:
            return
        if len(self.workers) < self.config.processes:
            worker = self._worker(1)
            if worker is not None:
                self.workers.append(worker)

    def check(self, now: float) -> None:
        """Stop workers that have been idle for long, and kill those that did not boot or exit in time."""
        super().check(now)
        for worker in list(self.workers):
            if worker.open and not worker.attempts and now - worker.idle_at > _LINGER:
                self._dismiss(worker)
