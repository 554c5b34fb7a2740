"""The workers of one handler with a memory limit."""

from __future__ import annotations

from app.workers.base import ASYNC, Assignment
from app.workers.home import State
from app.workers.pool import Pool
from app.workers.worker import Worker

_LINGER = 5.0  # seconds without an attempt after which a worker ends


class Confined(Pool):
    """Its workers are made when there is work, have one attempt at a time, and end without any."""

    weighs = True

    def fill(self) -> None:
        """Start none: `offer` does."""

    def complete(self) -> bool:
        """Whether it waits for no worker: it never does."""
        return True

    def unsteady(self) -> bool:
        """Whether it has workers: those without an attempt are to be ended."""
        return bool(self.everyone())

    def idle(self) -> bool:
        """Whether it has no worker and nothing to remember."""
        return not self.everyone() and self._delayed is None

    def offer(self, assignment: Assignment) -> Worker | None:
        """Hand an attempt over; returns its worker, None if there is no room, or none yet."""
        self.wanted = True
        if assignment.alone:
            return self._offer_alone(assignment)
        for worker in self.workers:
            if worker.open and not worker.flights:
                awaits = assignment.kind in ASYNC
                worker.send(assignment, self._pace(assignment.handler), awaits=awaits, quick=False)
                return worker
        self._grow()
        return None

    def _grow(self) -> None:
        booting = any(worker.state is State.BOOTING for worker in self.workers)
        if booting or self._delayed or not self._owner.can_launch():
            return
        if len(self.workers) < self.shape.processes:
            self.workers.append(self._worker(1))

    def check(self, now: float) -> None:
        """End workers that had no attempt for long, and those that did not boot or leave in time."""
        super().check(now)
        for worker in list(self.workers):
            if worker.open and not worker.flights and now - worker.idle_at > _LINGER:
                self._dismiss(worker)
