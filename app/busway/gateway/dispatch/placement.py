"""Which pool a handler's attempts go to, and why. It decides from figures and returns a value.

A handler that leaves the choice to the gateway starts in processes and is measured: an attempt that
spends most of its time on the processor wants a process, one that mostly waits does well in a
thread. Each move doubles the attempts that the next one takes, so that nothing goes to and fro.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from busway.domain.callables import ASYNC
from busway.domain.run import Outcome
from busway.gateway.attempts.inflight import Attempt
from busway.gateway.dispatch.registry import Entry
from busway.gateway.executors.port import Ended

ENOUGH = 30  # attempts
BURNS, WAITS = 0.6, 0.3  # CPU time by wall time: over it a process, under it a thread, between them no move
_MOST = 100_000  # attempts between two moves
_CROWDED = 0.6  # of a processor: so busy a thread host makes its attempts wait for one another
_NO_FIGURES = "an async target waits on its event loop, and what CPU time it takes cannot be told"


class Place(msgspec.Struct, frozen=True):
    """Where attempts go, the reason in words, and since when (microseconds since 1970)."""

    pool: str
    reason: str
    since: int


class Measure(msgspec.Struct):
    """What the attempts of a place took, in seconds; `first` and `last` in microseconds since 1970.

    `wall` is without the time that they had no processor, which says more of the machine than of them.
    """

    attempts: int = 0
    cpu: float = 0.0
    wall: float = 0.0
    first: int = 0
    last: int = 0

    def add(self, ended: Ended) -> None:
        """Count one attempt in."""
        self.first = min(self.first or ended.started_at, ended.started_at)
        self.last = max(self.last, ended.finished_at)
        self.attempts += 1
        self.cpu += ended.cpu_time or 0.0
        self.wall += ended.wall_time - ended.starved

    @property
    def share(self) -> float:
        """CPU time by wall time."""
        return self.cpu / self.wall if self.wall else 0.0

    @property
    def load(self) -> float:
        """How much of one processor all of them took while they went on."""
        return self.cpu * 1e6 / max(1, self.last - self.first)

    def __str__(self) -> str:
        return f"cpu/wall {self.share:.2f} over {self.attempts} attempts"


class Measured:
    """The place of one handler's code, from its attempts.

    Args:
        code: what is measured: the target and the digest of its file.
        revision: the first revision with that code.
        waits: the target is async: of such attempts no CPU time is known, and waiting is what they are for.
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
        """Why it is there, in words."""
        return self._why or f"not measured yet: {self._measure.attempts} of {ENOUGH} attempts"

    def note(self, pool: str, ended: Ended) -> None:
        """Take an attempt that ended in `pool`."""
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
        # Threads that compute wait for one another, which looks like waiting: then what an attempt
        # cost when it was measured in a process tells the two apart.
        cost = measure.cpu / measure.attempts
        return measure.load > _CROWDED and self._cost is not None and cost > 2 * self._cost

    def _move(self, pool: str, why: str, now: int) -> None:
        self._why = why
        if pool != self.pool:
            self.pool, self.since = pool, now
            self._needed = min(_MOST, self._needed * 2)
        self._measure = Measure()


class Placement:
    """The places of all handlers.

    Args:
        default: the pool that the gateway was started with: `process`, `thread` or `auto`.
        clock: microseconds since 1970.
    """

    def __init__(self, default: str, clock: Callable[[], int]) -> None:
        self._default, self._clock = default, clock
        self._started_at = clock()
        self._measured: dict[int, Measured] = {}

    def pool(self, entry: Entry, kind: str) -> str:
        """Return where the handler's next attempt goes, `process` or `thread`; `kind` is its target's."""
        chosen = entry.spec.pool or self._default
        if entry.spec.memory is not None:
            return "process"
        return self._of(entry, kind).pool if chosen == "auto" else chosen

    def place(self, entry: Entry, kind: str) -> Place:
        """Return where and why."""
        spec, since = entry.spec, entry.handler.updated_at
        pool = self.pool(entry, kind)
        if spec.memory is not None:
            return Place(pool, "it has a memory limit, and so worker processes of its own", since)
        if spec.pool in {"process", "thread"}:
            return Place(pool, "the handler chose it", since)
        if self._default != "auto" and spec.pool is None:
            return Place(pool, "the gateway was started with it", self._started_at)
        measured = self._of(entry, kind)
        return Place(pool, measured.reason, measured.since)

    def take(self, ended: list[tuple[Attempt, Ended]]) -> None:
        """Take attempts that ended; those of earlier code tell nothing."""
        if not self._measured:
            return
        for attempt, report in ended:
            measured = self._measured.get(attempt.run.handler)
            if measured is not None and attempt.revision >= measured.revision:
                measured.note(attempt.pool, report)

    def _of(self, entry: Entry, kind: str) -> Measured:
        handler = entry.handler
        code = (entry.spec.target, handler.file_digest)
        measured = self._measured.get(handler.id)
        if measured is None or measured.code != code:
            waits = kind in ASYNC
            measured = Measured(code, handler.revision, waits=waits, now=self._clock())
            self._measured[handler.id] = measured
        return measured
