"""State that the pools of all generations share: the attempts of all workers, and where reports go."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Mapping

from busway.gateway.executors.port import Listener, Room, WorkerReport
from busway.gateway.executors.python.host.attempt import SentAttempt
from busway.gateway.executors.python.host.checking import FrameLimits
from busway.gateway.executors.python.host.handler_output import HandlerOutput
from busway.gateway.executors.python.host.reaping import Orphans
from busway.gateway.executors.python.wire.lease import Lease

logger = logging.getLogger("busway.workers")

_INTERVAL = 0.025  # seconds between two checks
_AFTER_FAILURE = 1.0  # seconds
_STOOD_STILL = 500_000_000  # nanoseconds by which a check is late


def _ignore_reports(_reports: list[WorkerReport]) -> None:
    pass


class PeriodicCheck:
    """Checks the workers periodically, as long as there is something to check.

    Args:
        check: returns whether to check again. Its argument: for how many nanoseconds the gateway stood still
            before, because it was stopped (SIGSTOP, a paused container). 0 for the usual delays.

    Attributes:
        due: whether a check is scheduled.
    """

    def __init__(self, check: Callable[[int], bool]) -> None:
        self._check = check
        self._expected = 0
        self._timer: asyncio.TimerHandle | None = None
        self._stopped = False
        self.due = False

    def start(self) -> None:
        """Schedule a check, unless one is scheduled."""
        self._start(_INTERVAL)

    def _start(self, delay: float) -> None:
        if not self.due and not self._stopped:
            self.due = True
            self._expected = time.monotonic_ns() + int(delay * 1e9)
            self._timer = asyncio.get_running_loop().call_later(delay, self._run)

    def stop(self) -> None:
        """Check no more, whatever asks for it."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()

    def _run(self) -> None:
        self.due = False
        try:
            late = time.monotonic_ns() - self._expected
            if self._check(late if late > _STOOD_STILL else 0):
                self.start()
        except Exception:
            logger.exception("a check of the workers failed; it is repeated")
            self._start(_AFTER_FAILURE)


class Shared:
    """One for each supervisor.

    Args:
        check: the periodic check of the workers.
        limits: the largest frames that workers may send.

    Attributes:
        attempts: the attempts that workers have, by token. Each worker adds and removes its own.
        report: receives the reports of the executor, in batches and in order per attempt.
        refused: an offer was refused, so `Room` must be reported.
        closed: no attempt may start, because new code takes over or the gateway drains.
        changed: set when a worker becomes ready or dies, or when a zygote can start no more workers. While
            `closed`, also set when a worker has fewer attempts.
        reload: set when the handler code must be loaded again, because it changed or its zygote died.
        orphans: reaps what dead zygotes left.
        output: shows what handlers write.
        lease: until when attempts may run. Set before the first zygote starts.
        deaths: number of dead workers, by pool and cause.
        environment: variables of the zygotes. Set before the first one starts.
    """

    def __init__(self, check: PeriodicCheck, limits: FrameLimits) -> None:
        self.limits = limits
        self.attempts: dict[int, SentAttempt] = {}
        self.report: Listener = _ignore_reports
        self.refused = self.closed = False
        self.changed, self.reload = asyncio.Event(), asyncio.Event()
        self.check, self.orphans, self.output = check, Orphans(), HandlerOutput()
        self.lease: Lease
        self.environment: Mapping[str, str] = {}
        self.deaths: dict[str, Counter[str]] = {name: Counter() for name in ("process", "thread", "memory")}

    def remove(self, attempt: SentAttempt, pid: int | None) -> None:
        """Forget an attempt that a worker does not have any more."""
        assignment = attempt.assignment
        del self.attempts[assignment.token]
        if assignment.exclusive and pid is not None:
            self.lease.release(pid)

    def room(self) -> None:
        """Report `Room` if an offer was refused before and attempts may start."""
        if self.refused and not self.closed:
            self.refused = False
            self.report([Room()])

    async def until(self, condition: Callable[[], bool], timeout: float) -> bool:
        """Wait for a condition that depends on `changed`. Return False after `timeout` seconds."""
        try:
            async with asyncio.timeout(timeout):
                while not condition():
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            return condition()
        return True
