"""The attempts in flight: the one place that knows which run is being attempted here, and under which token.

Nobody else keeps a copy. Dispatch asks it whom limits and keys keep waiting, the recorder whose report it
has, the scheduler which runs must not expire.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import defaultdict
from collections.abc import Mapping

import msgspec

from busway.domain.handler import Handler, Spec
from busway.domain.run import Run
from busway.gateway.attempts.trial import Trial
from busway.gateway.executors.port import Assignment, Workers


class Attempt(msgspec.Struct, frozen=True, gc=False):
    """One try of a run: the assignment as it was made, and the limits by which its outcome is judged.

    `number` counts from 1; `pool` is where it was placed.
    """

    token: int
    run: Run
    number: int
    handler: str
    revision: int
    spec: Spec
    pool: str


class InFlight:
    """The attempts of this node, from handing out until they are over and certainly not running.

    An attempt has its place, which counts against its handler's `concurrency` and holds its key, until
    both are true: the store knows its outcome, and the executor has nothing of it that may still run.

    Args:
        workers: the executor of this node.

    Attributes:
        live: by token, those that the executor has and whose reports count.
        runs: by run, those whose outcome is not stored yet; no other attempt of such a run may start.
        lingering: by run, those that were given up or cancelled, and may still run.
        trials: by token, attempts of no run.
        room: set whenever the executor can take what it refused before.
    """

    def __init__(self, workers: Workers) -> None:
        self.live: dict[int, Attempt] = {}
        self.runs: dict[int, Attempt] = {}
        self.lingering: dict[int, Attempt] = {}
        self.trials: dict[int, Trial] = {}
        self.room = asyncio.Event()
        self._workers = workers
        self._places: defaultdict[int, int] = defaultdict(int)
        self._keys: defaultdict[int, dict[str, int]] = defaultdict(dict)
        self._random = random.Random(secrets.randbits(128))  # noqa: S311 - tokens differ, they hide nothing

    # -- what dispatch asks

    def running(self, handler: int) -> int:
        """Return how many places the attempts of a handler have."""
        return self._places[handler]

    def keys(self, handler: int) -> Mapping[str, int]:
        """Return the partition keys that attempts of a handler hold; the mapping stays up to date."""
        return self._keys[handler]

    def expiring(self) -> list[int]:
        """Return the runs whose events expire and that have an attempt all the same."""
        return [run for run, attempt in self.runs.items() if attempt.run.expires_at is not None]

    # -- what happens to an attempt

    def start(self, run: Run, handler: Handler, spec: Spec, kind: str, pool: str) -> bool:
        """Hand out the next attempt of a run; False if there is no room for it now.

        Args:
            run: it has no attempt in flight.
            handler: whose run it is.
            spec: the handler's fields in force.
            kind: of the handler's target.
            pool: `process` or `thread`.
        """
        token = self._random.getrandbits(63) | 1
        number = run.attempt + 1
        assignment = Assignment(
            token=token,
            run=run.id,
            attempt=number,
            handler=handler.name,
            revision=handler.revision,
            target=spec.target,
            kind=kind,
            pool=pool,
            timeout=spec.timeout,
            event=run.event,
            alone=run.alone,
            memory=spec.memory,
        )
        if not self._workers.offer(assignment):
            return False
        attempt = Attempt(token, run, number, handler.name, handler.revision, spec, pool)
        self.live[token] = self.runs[run.id] = attempt
        self._places[run.handler] += 1
        if run.key is not None:
            keys = self._keys[run.handler]
            keys[run.key] = keys.get(run.key, 0) + 1
        return True

    def ended(self, attempt: Attempt, *, lingers: bool) -> None:
        """Take note that an attempt ended and waits for its commit; `lingers`: it may still run."""
        del self.live[attempt.token]
        if lingers:
            self.lingering[attempt.run.id] = attempt

    def returned(self, attempt: Attempt) -> None:
        """Take note that an attempt certainly never started: its run waits as before."""
        del self.live[attempt.token]
        del self.runs[attempt.run.id]
        self._leave(attempt.run)

    def stored(self, run: int) -> Run | None:
        """Take note that the store counts a run's attempt as over; one that is still live is cancelled.

        Returns:
            The run, if the attempt's place is free now.
        """
        attempt = self.runs.pop(run)
        if self.live.pop(attempt.token, None) is not None and self._workers.cancel(attempt.token):
            self.lingering[run] = attempt
        if run in self.lingering:
            return None
        self._leave(attempt.run)
        return attempt.run

    def gone(self, token: int) -> Run | None:
        """Take note that an attempt that was given up does not run any more.

        Returns:
            Its run, if the attempt's place is free now.
        """
        for run, attempt in self.lingering.items():
            if attempt.token == token:
                del self.lingering[run]
                if run in self.runs:
                    return None  # its outcome waits for a commit
                self._leave(attempt.run)
                return attempt.run
        return None

    def _leave(self, run: Run) -> None:
        self._places[run.handler] -= 1
        if run.key is not None:
            keys = self._keys[run.handler]
            keys[run.key] -= 1
            if not keys[run.key]:
                del keys[run.key]

    # -- trials

    def try_out(self, trial: Trial, assignment: Assignment) -> bool:
        """Hand out an attempt of no run; False if there is no room for it now."""
        if not self._workers.offer(assignment):
            return False
        self.trials[trial.token] = trial
        return True

    def end_trial(self, trial: Trial) -> None:
        """Forget a trial; one that has not ended is cancelled."""
        del self.trials[trial.token]
        if trial.ended.cancelled():
            self._workers.cancel(trial.token)
