"""Choose the pool of a handler's attempts and give the reason. It decides from measurements only.

A handler with pool `auto` starts in processes and is measured. An attempt that spends most of its time on
the CPU needs a process; one that mostly waits does well in a thread. Each move doubles the number of
attempts that the next move needs, so that a handler does not move back and forth.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from busway.domain.callables import ASYNC
from busway.domain.run import Outcome
from busway.domain.weburl import HTTP
from busway.gateway.attempts.inflight import Attempt
from busway.gateway.dispatch.registry import RegisteredHandler
from busway.gateway.executors.port import Ended

ENOUGH = 30  # attempts
BURNS, WAITS = 0.6, 0.3  # CPU time / wall time: above 0.6 a process, below 0.3 a thread, between them no move
_MOST = 100_000  # attempts between two moves
_CROWDED = 0.6  # CPUs: above this load, threads of one worker wait for one another
_NO_FIGURES = "the target is async: it waits on its event loop, and its CPU time cannot be measured"


class Place(msgspec.Struct, frozen=True):
    """The pool of a handler's attempts, the reason as text, and since when (microseconds since 1970)."""

    pool: str
    reason: str
    since: int


class Measure(msgspec.Struct):
    """Totals of the attempts measured in one pool, in seconds. `first` and `last` in microseconds since 1970.

    `wall` excludes the time that attempts waited for a CPU, which depends on the machine, not on them.
    """

    attempts: int = 0
    cpu: float = 0.0
    wall: float = 0.0
    first: int = 0
    last: int = 0

    def add(self, ended: Ended) -> None:
        """Add one attempt."""
        self.first = min(self.first or ended.started_at, ended.started_at)
        self.last = max(self.last, ended.finished_at)
        self.attempts += 1
        self.cpu += ended.cpu_time or 0.0
        self.wall += ended.wall_time - ended.starved

    @property
    def share(self) -> float:
        """CPU time divided by wall time."""
        return self.cpu / self.wall if self.wall else 0.0

    @property
    def load(self) -> float:
        """The average CPU load of all attempts together, in CPUs."""
        return self.cpu * 1e6 / max(1, self.last - self.first)

    def __str__(self) -> str:
        return f"cpu/wall {self.share:.2f} over {self.attempts} attempts"


class Measured:
    """The pool of one handler's code, chosen from measured attempts.

    Args:
        code: the measured code: the target and the digest of its file.
        revision: the first revision with that code.
        waits: the target is async. The CPU time of its attempts is unknown, and they mostly wait.
        now: microseconds since 1970.
    """

    def __init__(self, code: tuple[str, str], revision: int, *, waits: bool, now: int) -> None:
        self.code, self.revision = code, revision
        self.pool, self.since = ("thread" if waits else "process"), now
        self._why = _NO_FIGURES if waits else ""
        self._waits = waits
        self._crashed = False
        self._needed = ENOUGH
        self._cost: float | None = None
        self._measure = Measure()

    @property
    def reason(self) -> str:
        """The reason for the pool, as text."""
        return self._why or f"not measured yet: {self._measure.attempts} of {ENOUGH} attempts"

    def note(self, pool: str, ended: Ended) -> None:
        """Record an attempt that ended in `pool`."""
        if self._crashed:
            return
        if ended.outcome is Outcome.FAILED and ended.error is not None and ended.error.type == "WorkerDied":
            self._crashed = True
            self._move("process", f"an attempt ended its worker: {ended.error.message}", ended.finished_at)
            return
        if self._waits or pool != self.pool or ended.cpu_time is None or not ended.wall_time:
            return
        self._measure.add(ended)
        if self._measure.attempts >= self._needed:
            self._decide(ended.finished_at)

    def _decide(self, now: int) -> None:
        measure, self._measure = self._measure, Measure()
        if self.pool == "process":
            self._cost = measure.cpu / measure.attempts
            if measure.share < WAITS:
                self._move("thread", f"it waits: {measure}", now)
                return
            self._why = f"it computes: {measure}" if measure.share > BURNS else f"it does both: {measure}"
        elif measure.share > BURNS:
            self._move("process", f"it computes: {measure}", now)
        elif self._is_crowded(measure):
            self._move("process", f"it computes more than it did: {measure}, with others at once", now)
        else:
            self._why = f"it waits: {measure}" if measure.share < WAITS else f"it does both: {measure}"

    def _is_crowded(self, measure: Measure) -> bool:
        # Threads that compute wait for one another, which looks like waiting. The CPU time of an attempt
        # measured in a process tells the two cases apart.
        cost = measure.cpu / measure.attempts
        return measure.load > _CROWDED and self._cost is not None and cost > 2 * self._cost

    def _move(self, pool: str, why: str, now: int) -> None:
        self._why = why
        if pool != self.pool:
            self.pool, self.since = pool, now
            self._needed = min(_MOST, self._needed * 2)
        self._measure = Measure()


class Placement:
    """The pools of all handlers.

    Args:
        default: the pool that the gateway was started with: `process`, `thread` or `auto`.
        clock: microseconds since 1970.
    """

    def __init__(self, default: str, clock: Callable[[], int]) -> None:
        self._default, self._clock = default, clock
        self._started_at = clock()
        self._measured: dict[int, Measured] = {}

    def pool(self, entry: RegisteredHandler, kind: str) -> str:
        """Return the pool of the handler's next attempt: `process`, `thread` or `http`.

        `kind` is that of its target.
        """
        chosen = entry.spec.pool or self._default
        if kind == HTTP:
            return HTTP
        if entry.spec.memory is not None:
            return "process"
        return self._of(entry, kind).pool if chosen == "auto" else chosen

    def place(self, entry: RegisteredHandler, kind: str) -> Place:
        """Return the pool and the reason."""
        spec, since = entry.spec, entry.handler.updated_at
        pool = self.pool(entry, kind)
        if pool == HTTP:
            return Place(pool, "its target is a URL", since)
        if spec.memory is not None:
            return Place(pool, "it has a memory limit, and so worker processes of its own", since)
        if spec.pool in {"process", "thread"}:
            return Place(pool, "the handler chose it", since)
        if self._default != "auto" and spec.pool is None:
            return Place(pool, "the gateway was started with it", self._started_at)
        measured = self._of(entry, kind)
        return Place(pool, measured.reason, measured.since)

    def take(self, ended: list[tuple[Attempt, Ended]]) -> None:
        """Record attempts that ended. Attempts of earlier code are ignored."""
        if not self._measured:
            return
        for attempt, report in ended:
            measured = self._measured.get(attempt.run.handler)
            if measured is not None and attempt.revision >= measured.revision:
                measured.note(attempt.pool, report)

    def _of(self, entry: RegisteredHandler, kind: str) -> Measured:
        handler = entry.handler
        code = (entry.spec.target, handler.file_digest)
        measured = self._measured.get(handler.id)
        if measured is None or measured.code != code:
            waits = kind in ASYNC
            measured = Measured(code, handler.revision, waits=waits, now=self._clock())
            self._measured[handler.id] = measured
        return measured
