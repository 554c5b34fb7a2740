"""The supervisor implements the port `Workers` with generations of a zygote and pools."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from busway.gateway.executors.port import Assignment, Catalog, Listener, Returned, Room, WorkerReport
from busway.gateway.executors.python.host.attempt import SentAttempt
from busway.gateway.executors.python.host.attempt import now as read_clocks
from busway.gateway.executors.python.host.generation import Generation, Plan
from busway.gateway.executors.python.host.link import ZygoteLost
from busway.gateway.executors.python.host.pool import Pool, PoolConfig
from busway.gateway.executors.python.host.renewal import Renewal
from busway.gateway.executors.python.host.watching import Watched
from busway.gateway.executors.python.host.worker import Worker
from busway.gateway.executors.python.wire.memory import MIB
from busway.gateway.executors.python.wire.programs import become_subreaper
from busway.gateway.executors.python.wire.protocol import Boot
from busway.gateway.executors.python.wire.reaping import Orphans

logger = logging.getLogger("busway.workers")

_SWEEP = 0.025  # seconds
_TEARDOWN_TIMEOUT = 5.0  # seconds
_FORMER_AT_ONCE = 8  # old generations that may still run attempts


async def _ignore_catalog(_catalog: Catalog) -> None:
    pass


def _ignore_reports(_reports: list[WorkerReport]) -> None:
    pass


class Supervisor:
    """Runs handler code in child processes. The port describes its guarantees.

    Args:
        handlers: the folder of handler files.
        app_dir: the user's own project, which handlers may import.
        processes: worker processes of the process pool, and of a handler with a memory limit.
        threads: threads of the thread pool; also the maximum number of coroutines in one worker.
        max_result_bytes: a larger value fails its attempt.
        import_timeout: seconds that one file may take to import.
        default_pool: the pool to start at once; the other one starts when it is first needed.
        grace: seconds that an overdue or cancelled attempt gets to end by itself.
        max_event_bytes: the limit for the data of a published event.
        growth: bytes by which a worker may grow over its attempts before it is replaced.
        reload: load the folder again when one of its files changes, or a file of the project in a directory
            that imports searched.
        on_catalog: receives the catalog of the folder when it has changed. No attempt starts until it
            returns; later attempts run the new code.
    """

    def __init__(  # noqa: PLR0913 - the settings of the workers, each by name
        self,
        *,
        handlers: Path,
        app_dir: Path | None = None,
        processes: int,
        threads: int,
        max_result_bytes: int,
        import_timeout: float = 10.0,
        default_pool: str = "process",
        grace: float = 0.5,
        max_event_bytes: int = 1_048_576,
        growth: int = 256 * MIB,
        reload: bool = False,
        on_catalog: Callable[[Catalog], Awaitable[None]] = _ignore_catalog,
    ) -> None:
        self.draining = False
        self._listener: Listener = _ignore_reports
        self._import_timeout = import_timeout
        self._default_pool = "thread" if default_pool == "thread" else "process"
        project = str(app_dir.resolve()) if app_dir is not None else ""
        boot = Boot(str(handlers.resolve()), {}, max_result_bytes, max_event_bytes, project)
        self._plan = Plan(
            PoolConfig(processes, 1, threads, grace, growth),
            PoolConfig(1, threads, threads, grace, growth),
            itertools.count(1).__next__,
        )
        self._generation = Generation(self, self._plan, boot, Watched(handlers))
        self._generations: set[Generation] = set()
        self._former: list[Generation] = []
        self._closing: dict[Generation, asyncio.Task[None]] = {}
        self._renewal = Renewal(self, boot, on_catalog, reload=reload)
        self._workers: dict[int, Worker] = {}
        self._refused = self._sweeping = self._holding = self._stopping = False
        self._lifeline: tuple[int, int] = (-1, -1)
        self._orphans = Orphans()
        self._deaths: dict[str, Counter[str]] = {name: Counter() for name in ("process", "thread", "memory")}

    async def start(self) -> Catalog:
        """Start the zygote. Return what the handlers folder defines, without files that hang or crash."""
        become_subreaper()
        self._lifeline = os.pipe()
        self._generation = await self._renewal.load()
        self._generation.pools[self._default_pool].want()
        await self._until(self._generation.complete, self._import_timeout)
        self._renewal.start()
        return self._generation.files

    # -- generations

    @property
    def generation(self) -> Generation:
        """The generation that gets new attempts."""
        return self._generation

    async def prepare(self, boot: Boot, watched: Watched) -> Generation:
        """Load the folder into a new generation, beside the running one.

        Raises:
            ZygoteLost, OSError: the zygote could not be started.
        """
        fresh = Generation(self, self._plan, boot, watched)
        self._generations.add(fresh)
        try:
            await fresh.load(self._lifeline[0], self._import_timeout)
        except (ZygoteLost, OSError):
            self._generations.discard(fresh)
            raise
        return fresh

    async def boot(self, fresh: Generation) -> None:
        """Start the workers that will be needed, and wait until they are ready.

        Raises:
            OSError: a worker could not be started.
        """
        try:
            for name, pool in self._generation.pools.items():
                if pool.wanted and name in fresh.pools:
                    fresh.pools[name].want()
        except OSError:
            self._dismiss(fresh)
            raise
        await self._until(fresh.complete, self._import_timeout)

    def hold(self) -> None:
        """Start no attempts. Attempts that have not started are returned."""
        self._holding = self._refused = True
        self._give_back()

    def take_over(self, fresh: Generation) -> None:
        """Send all attempts to the new generation from now on."""
        former, self._generation = self._generation, fresh
        self._holding = False
        self._dismiss(former)
        self.room()

    def _dismiss(self, generation: Generation) -> None:
        self._former.append(generation)
        generation.leave()
        if len(self._former) > _FORMER_AT_ONCE:
            logger.warning("%d old generations still run attempts: killing the oldest", len(self._former))
            self._former[0].stop()
        self.watch()

    def lost(self, generation: Generation) -> None:
        """A generation can start no more workers: replace it."""
        if self._stopping:
            return
        if generation.all_workers():
            self._orphans.watch()
        if generation not in self._former:
            self._renewal.lost()

    def died(self, worker: Worker) -> None:
        """Count a dead worker by its pool and cause."""
        self._deaths[worker.pool.partition(":")[0]][worker.cause] += 1

    def _close(self, generation: Generation) -> None:
        if generation not in self._closing:
            closing = generation.close(_TEARDOWN_TIMEOUT)
            self._closing[generation] = asyncio.get_running_loop().create_task(closing)
            self._closing[generation].add_done_callback(lambda _: self._forget(generation))

    def _forget(self, generation: Generation) -> None:
        generation.reap_orphans()
        del self._closing[generation]
        self._former.remove(generation)
        self._generations.discard(generation)

    async def _until(self, condition: Callable[[], bool], timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while not condition():
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(0.002)
        return True

    # -- attempts

    def listen(self, listener: Listener) -> None:
        """Set the function that receives all reports, in batches and in order per attempt. Call it once."""
        self._listener = listener

    def offer(self, assignment: Assignment) -> bool:
        """Send an attempt to a worker. Return False if its pool has no room now."""
        if self.draining or self._holding:
            self._refused = True
            return False
        made, confined = self._generation, assignment.memory is not None
        pool = made.confined(assignment.handler) if confined else made.pools[assignment.pool]
        worker = pool.offer(assignment)
        if worker is None:
            self._refused = True
            return False
        self._workers[assignment.token] = worker
        if not self._sweeping:
            self.watch()
        return True

    def cancel(self, token: int) -> bool:
        """Stop an attempt whose outcome is stored: ask, then kill. Return False if it does not run."""
        worker = self._workers.get(token)
        attempt = worker.attempts.get(token) if worker is not None else None
        if worker is not None and attempt is not None:
            worker.cancel(attempt)
            return True
        if any(pool.withdraw(token) for pool in self._pools()):
            self._workers.pop(token, None)
        return False

    def credit(self, token: int, size: int) -> None:
        """Record that a partial of `size` bytes was stored, so that a waiting generator may continue."""
        worker = self._workers.get(token)
        attempt = worker.attempts.get(token) if worker is not None else None
        if worker is not None and attempt is not None:
            worker.page.credit(attempt.seat, size)

    def report(self, reports: list[WorkerReport], released: list[SentAttempt]) -> None:
        """Pass on a worker's reports. `released`: attempts that no worker has any more."""
        for attempt in released:
            self._workers.pop(attempt.assignment.token, None)
        if reports:
            self._listener(reports)

    def forget(self, token: int) -> None:
        """No worker has the attempt with this token."""
        self._workers.pop(token, None)

    def room(self) -> None:
        """Report `Room` if an offer was refused before."""
        if self._refused and not (self.draining or self._holding):
            self._refused = False
            self._listener([Room()])

    # -- checks, drain and stop

    def watch(self) -> None:
        """Check the workers periodically, as long as there is something to check."""
        if not self._sweeping:
            self._sweeping = True
            asyncio.get_running_loop().call_later(_SWEEP, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = False
        now = read_clocks()
        for generation in list(self._generations):
            for worker in generation.all_workers():
                if worker.attempts:
                    self.report(worker.sweep(now), [])
            generation.check(now.mono / 1e9)
            if generation in self._former and not generation.all_workers():
                self._close(generation)
        if self._workers or self._former or self._generation.needs_checks():
            self.watch()

    async def drain(self, timeout: float) -> None:
        """Accept nothing new and wait up to `timeout` seconds. Attempts that did not start are returned."""
        self.draining = True
        self._renewal.stop()
        self._give_back()
        await self._until(lambda: not self._workers, timeout)
        for worker in self._all_workers():
            if worker.attempts:
                worker.kill()
            else:
                worker.end()
        await self._until(lambda: not self._all_workers(), _TEARDOWN_TIMEOUT)
        for worker in self._all_workers():
            worker.kill()
        await self._until(lambda: not self._all_workers(), _TEARDOWN_TIMEOUT)

    def _give_back(self) -> None:
        tokens: list[int] = []
        for pool in self._pools():
            for token in pool.pending():
                pool.withdraw(token)
                self._workers.pop(token, None)
                tokens.append(token)
        if tokens:
            self._listener([Returned(token=token) for token in tokens])

    def _pools(self) -> list[Pool]:
        return [pool for generation in self._generations for pool in generation.pools.values()]

    def _all_workers(self) -> list[Worker]:
        return [worker for generation in self._generations for worker in generation.all_workers()]

    async def stop(self) -> None:
        """Kill all children and wait until they have ended."""
        self.draining = self._stopping = True
        self._renewal.stop()
        for generation in self._generations:
            generation.stop()
        await self._until(lambda: not self._all_workers(), _TEARDOWN_TIMEOUT)
        await asyncio.gather(
            *self._closing.values(),
            *(generation.close(_TEARDOWN_TIMEOUT) for generation in self._generations),
        )
        for worker in self._all_workers():
            if not worker.reap():
                worker.ended(None)
        for generation in self._generations:
            generation.reap_orphans()
        self._orphans.stop()
        for descriptor in self._lifeline:  # the kernel kills any remaining children now
            if descriptor >= 0:
                os.close(descriptor)
        self._lifeline = (-1, -1)

    def status(self) -> dict[str, Any]:
        """Describe zygote, pools and workers for `/v1/status`."""
        link = self._generation.link
        pools = self._generation.status()
        for generation in self._former:
            for name, workers in generation.leavers().items():
                pool = pools.setdefault(name, {"running": 0, "workers": []})
                pool["running"] += sum(worker["running"] for worker in workers)
                pool["workers"] += workers
        return {
            "zygote": {
                "pid": link.pid if link is not None and link.alive else None,
                "starts_workers_by": self._generation.loaded.mode,
                "restarts": self._renewal.renewals,
                "error": self._renewal.error,
            },
            "deaths": {pool: dict(causes) for pool, causes in self._deaths.items()},
            "pools": pools,
        }
