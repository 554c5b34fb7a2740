"""The attempts in flight: the only table of which run is being attempted on this node, and under which token.

No other module keeps a copy. Dispatch reads it for limits and keys, the recorder to find the attempt of a
report, the scheduler to find the runs that must not expire.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Protocol

import msgspec

from busway.domain.handler import Handler, Spec
from busway.domain.run import MAX_RETURNS, Run
from busway.gateway.attempts.trial import Trial
from busway.gateway.executors.port import Assignment, Workers


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One attempt of a run, with the limits that decide what its outcome means.

    `number` counts from 1. `pool` is the pool that it was sent to.
    """

    token: int
    run: Run
    number: int
    handler: str
    revision: int
    spec: Spec
    pool: str


class Elsewhere(Protocol):
    """The other nodes."""

    def offer(self, assignment: Assignment, run: Run) -> bool:
        """Give an attempt to another node. Return False if none has room for it."""

    def lingers(self, run: int) -> bool:
        """Return whether the attempt of a run, which has ended, may still run on another node."""


class InFlight:
    """The attempts of this node, from the moment they are handed out until nothing of them can still run.

    Each attempt has a slot. The slot counts against the handler's `concurrency` and holds the run's key. It
    is released when the outcome is stored and the executor runs nothing of the attempt any more.

    Args:
        workers: the executor of this node.

    Attributes:
        live: by token, the attempts that the executor has and whose reports count.
        runs: by run, the attempts whose outcome is not stored yet; no other attempt of such a run may start.
        lingering: by run, the attempts that timed out or were cancelled, and may still run.
        trials: by token, attempts without a run.
        room: set when the executor can accept attempts after it refused one.
        elsewhere: takes attempts for which this node has no room. None if there is no other node.
    """

    def __init__(self, workers: Workers) -> None:
        self.live: dict[int, Attempt] = {}
        self.runs: dict[int, Attempt] = {}
        self.lingering: dict[int, Attempt] = {}
        self.trials: dict[int, Trial] = {}
        self.room = asyncio.Event()
        self.elsewhere: Elsewhere | None = None
        self._workers = workers
        self._slots: defaultdict[int, int] = defaultdict(int)
        self._keys: defaultdict[int, dict[str, int]] = defaultdict(dict)
        self._random = random.Random(secrets.randbits(128))  # noqa: S311 - tokens must differ, not be secret

    # -- queries

    def running(self, handler: int) -> int:
        """Return how many slots the attempts of a handler occupy."""
        return self._slots[handler]

    def keys(self, handler: int) -> Mapping[str, int]:
        """Return a live view of the partition keys that attempts of a handler hold."""
        return self._keys[handler]

    def expiring(self) -> list[int]:
        """Return the runs with an attempt in flight whose events have an expiry time."""
        return [run for run, attempt in self.runs.items() if attempt.run.expires_at is not None]

    def count(self) -> dict[str, int]:
        """Return how many attempts this node runs, by pool. Pools without any are left out."""
        return dict(Counter(attempt.pool for attempt in self.live.values()))

    # -- the states of an attempt

    def start(self, run: Run, handler: Handler, spec: Spec, kind: str, pool: str, here: int | None) -> bool:
        """Hand out the next attempt of a run. Return False if no executor has room for it now.

        Args:
            run: a run without an attempt in flight.
            handler: the run's handler.
            spec: the handler's effective fields.
            kind: the kind of the handler's target.
            pool: `process`, `thread` or `http`.
            here: the revision that this node runs. None: it does not have the code.
        """
        token, revision = self._random.getrandbits(63) | 1, handler.revision if here is None else here
        attempt = Attempt(token, run, run.attempt + 1, handler.name, revision, spec, pool)
        assignment = _assignment(attempt, kind)
        if here is not None and self._workers.offer(assignment):
            self.live[token] = attempt
        elif self.elsewhere is None or not self.elsewhere.offer(assignment, run):
            return False
        self.hold(attempt)
        return True

    def accept(self, attempt: Attempt, kind: str) -> bool:
        """Start an attempt that the leader assigned to this node. Return False if there is no room now."""
        if not self._workers.offer(_assignment(attempt, kind)):
            return False
        self.live[attempt.token] = attempt
        self.hold(attempt)
        return True

    def hold(self, attempt: Attempt) -> None:
        """Give an attempt its slot. Another node may have the attempt."""
        self.runs[attempt.run.id] = attempt
        self._take(attempt.run)

    def _take(self, run: Run) -> None:
        self._slots[run.handler] += 1
        if run.key is not None:
            keys = self._keys[run.handler]
            keys[run.key] = keys.get(run.key, 0) + 1

    def linger(self, attempt: Attempt) -> None:
        """Give an attempt of another node its slot that has ended and may still run."""
        self.lingering[attempt.run.id] = attempt
        self._take(attempt.run)

    def release(self, id_: int) -> None:
        """Record that no node has the attempt of a run after all."""
        attempt = self.runs.pop(id_, None)
        if attempt is not None:
            self._release(attempt.run)

    def ended(self, attempt: Attempt, *, lingers: bool) -> None:
        """Record that an attempt ended and waits for its commit. `lingers`: it may still run."""
        del self.live[attempt.token]
        if lingers:
            self.lingering[attempt.run.id] = attempt

    def returned(self, attempt: Attempt, *, died: bool = False) -> Run:
        """Record that an attempt never started. Its run waits again. `died`: because its worker died.

        Handler code can hide that it has started. So a run whose workers die again and again gets a worker
        of its own, whose death counts.
        """
        del self.live[attempt.token]
        del self.runs[attempt.run.id]
        self._release(attempt.run)
        run = attempt.run
        if not died:
            return run
        returned = run.returned + 1
        return msgspec.structs.replace(run, returned=returned, alone=run.alone or returned >= MAX_RETURNS)

    def stored(self, run: int) -> Run | None:
        """Record that the store has ended a run's attempt. An attempt that is still live is cancelled.

        Returns:
            The run, if the slot of the attempt is free now.
        """
        attempt = self.runs.pop(run)
        if self.live.pop(attempt.token, None) is not None:
            lingers = self._workers.cancel(attempt.token)
        else:
            lingers = self.elsewhere is not None and self.elsewhere.lingers(run)
        if lingers:
            self.lingering[run] = attempt
        if run in self.lingering:
            return None
        self._release(attempt.run)
        return attempt.run

    def gone(self, token: int) -> Run | None:
        """Record that a lingering attempt no longer runs.

        Returns:
            Its run, if the slot of the attempt is free now.
        """
        for run, attempt in self.lingering.items():
            if attempt.token == token:
                del self.lingering[run]
                if run in self.runs:
                    return None  # its outcome is not committed yet
                self._release(attempt.run)
                return attempt.run
        return None

    def stopped(self, run: int) -> Run | None:
        """Record that a lingering attempt of another node no longer runs.

        Returns:
            The run, if the slot of the attempt is free now.
        """
        attempt = self.lingering.pop(run, None)
        if attempt is None:
            return None
        self._release(attempt.run)
        return attempt.run

    def _release(self, run: Run) -> None:
        self._slots[run.handler] -= 1
        if run.key is not None:
            keys = self._keys[run.handler]
            keys[run.key] -= 1
            if not keys[run.key]:
                del keys[run.key]

    # -- trials

    def try_out(self, trial: Trial, assignment: Assignment) -> bool:
        """Hand out an attempt without a run. Return False if the executor has no room for it now."""
        if not self._workers.offer(assignment):
            return False
        self.trials[trial.token] = trial
        return True

    def end_trial(self, trial: Trial) -> None:
        """Forget a trial. A trial whose caller was cancelled is cancelled in the executor."""
        del self.trials[trial.token]
        if trial.ended.cancelled():
            self._workers.cancel(trial.token)


def _assignment(attempt: Attempt, kind: str) -> Assignment:
    run, spec = attempt.run, attempt.spec
    return Assignment(
        token=attempt.token,
        run=run.id,
        attempt=attempt.number,
        handler=attempt.handler,
        revision=attempt.revision,
        target=spec.target,
        kind=kind,
        pool=attempt.pool,
        timeout=spec.timeout,
        event=run.event,
        alone=run.alone,
        memory=spec.memory,
        exclusive=spec.ordered or spec.concurrency is not None,
        replay=run.replay,
    )
