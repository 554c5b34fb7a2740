"""The supervisor implements the port `Workers` with generations of a zygote and pools."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from busway.domain.callables import ASYNC
from busway.gateway.executors.port import Assignment, Catalog, Listener, Returned, WorkerLimits
from busway.gateway.executors.python.host.attempt import now as read_clocks
from busway.gateway.executors.python.host.checking import frame_limits
from busway.gateway.executors.python.host.environment import handler_environment, let_read
from busway.gateway.executors.python.host.generation import Generation, Plan
from busway.gateway.executors.python.host.link import ZygoteLost
from busway.gateway.executors.python.host.pool import Pool, PoolConfig
from busway.gateway.executors.python.host.renewal import Renewal
from busway.gateway.executors.python.host.shared import PeriodicCheck, Shared
from busway.gateway.executors.python.host.watching import Watched
from busway.gateway.executors.python.host.worker import Worker
from busway.gateway.executors.python.wire.lease import Lease, create
from busway.gateway.executors.python.wire.memory import MIB
from busway.gateway.executors.python.wire.programs import become_subreaper
from busway.gateway.executors.python.wire.protocol import Boot

logger = logging.getLogger("busway.workers")

_TEARDOWN_TIMEOUT = 5.0  # seconds
_FORMER_AT_ONCE = 8  # old generations that may still run attempts


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
        environment: variables of the processes with handler code. None: those of the gateway that are not
            its own.
        secrets: the file or folder with secrets of handlers.
        limits: of the processes with handler code.
        traces: the name of the node if handlers can make spans, else empty.
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
        environment: Mapping[str, str] | None = None,
        secrets: Path | None = None,
        limits: WorkerLimits = WorkerLimits(),  # noqa: B008 - it is frozen
        traces: str = "",
    ) -> None:
        self._import_timeout, self._reload = import_timeout, reload
        self._default_pool = "thread" if default_pool == "thread" else "process"
        project = bytes(app_dir.resolve()) if app_dir is not None else b""
        boot = Boot(bytes(handlers.resolve()), {}, max_result_bytes, max_event_bytes, project)
        boot.secrets, boot.limits = bytes(secrets.absolute()) if secrets is not None else b"", limits
        boot.traces = traces
        self._user = limits.user
        self._plan = Plan(
            PoolConfig(processes, 1, threads, grace, growth),
            PoolConfig(1, threads, threads, grace, growth),
            itertools.count(1).__next__,
        )
        frames = frame_limits(max_result_bytes, max_event_bytes)
        self._shared = Shared(PeriodicCheck(self._check), frames)
        self._shared.environment = (
            handler_environment(os.environ, user=limits.user) if environment is None else environment
        )
        self._generation = Generation(self._shared, self._plan, boot, Watched(handlers))
        self._generations: set[Generation] = set()
        self._former: list[Generation] = []
        self._closing: dict[Generation, asyncio.Task[None]] = {}
        self._renewal = Renewal(boot, self._shared.reload)
        self._tasks: list[asyncio.Task[None]] = []
        self._renewed: asyncio.Queue[Catalog] = asyncio.Queue()
        self._taken_over = asyncio.Event()
        self._draining = False
        self._lifeline: tuple[int, int] = (-1, -1)

    async def start(self) -> Catalog:
        """Start the zygote. Return what the handlers folder defines, without files that hang or crash."""
        become_subreaper()
        self._lifeline = os.pipe()
        let_read(self._lifeline[0], self._user)
        self._shared.lease = Lease(create(), writes=True)
        self._generation = await self._load()
        self._generation.pools[self._default_pool].want()
        await self._shared.until(self._generation.booted, self._import_timeout)
        loops = [self._renew(), self._renewal.watch()] if self._reload else [self._renew()]
        self._tasks = [asyncio.create_task(loop) for loop in loops]
        return self._generation.files

    def listen(self, listener: Listener) -> None:
        """Set the function that receives all reports, in batches and in order per attempt. Call it once."""
        self._shared.report = listener

    # -- generations

    async def renewed(self) -> Catalog:
        """Wait until handler code has changed. From then on no attempt starts until `take_over`."""
        return await self._renewed.get()

    def take_over(self) -> None:
        """Let attempts start again, with the code that `renewed` returned."""
        self._taken_over.set()

    async def _renew(self) -> None:
        """Replace a generation when its code has changed or it can start no more workers."""
        noticed: Generation | None = None
        renewal, reload = self._renewal, self._shared.reload
        while True:
            await reload.wait()
            if self._generation.launcher.lost and self._generation is not noticed:
                noticed = self._generation
                renewal.lost()
            await asyncio.sleep(renewal.delay)
            reload.clear()
            if not (renewal.due or self._generation.launcher.lost):
                continue
            asked = renewal.due
            try:
                fresh = await self._load()
                await self._boot(fresh)
            except (ZygoteLost, OSError) as problem:
                logger.error("could not load the handler code: %s", problem)  # noqa: TRY400 - no traceback
                renewal.failed(str(problem))
                continue
            except Exception as problem:
                logger.exception("could not load the handler code")
                renewal.failed(repr(problem))
                continue
            renewal.succeeded()
            await self._switch_to(fresh)
            noticed = None  # or it would be kept until the next one
            if asked:
                logger.info("handler code was loaded again: files have changed")

    async def _load(self) -> Generation:
        """Load the folder into a new generation, beside the running one.

        Raises:
            ZygoteLost, OSError: the zygote could not be started.
        """
        fresh = Generation(self._shared, self._plan, *self._renewal.begin())
        self._generations.add(fresh)
        try:
            await fresh.launcher.load(self._lifeline[0], self._import_timeout)
        except Exception:
            self._generations.discard(fresh)
            raise
        self._renewal.loaded()
        return fresh

    async def _boot(self, fresh: Generation) -> None:
        """Start the workers that will be needed, and wait until they are ready, with a timeout."""
        for name, pool in self._generation.pools.items():
            if pool.wanted:
                fresh.want(name)
        await self._shared.until(fresh.booted, self._import_timeout)

    async def _switch_to(self, fresh: Generation) -> None:
        """Send all attempts to the new generation. If its code is new, wait until the registry has it."""
        if fresh.files != self._generation.files:
            self._shared.closed = self._shared.refused = True
            self._give_back()
            self._taken_over.clear()
            self._renewed.put_nowait(fresh.files)
            await self._taken_over.wait()
        former, self._generation = self._generation, fresh
        self._shared.closed = self._draining
        self._dismiss(former)
        self._shared.room()

    def _dismiss(self, generation: Generation) -> None:
        self._former.append(generation)
        generation.leave()
        if len(self._former) > _FORMER_AT_ONCE:
            logger.warning("%d old generations still run attempts: killing the oldest", len(self._former))
            self._former[0].stop()
        self._shared.check.start()

    async def _close(self, generation: Generation) -> None:
        await generation.launcher.close(_TEARDOWN_TIMEOUT)
        generation.launcher.reap_orphans()
        del self._closing[generation]
        self._former.remove(generation)
        self._generations.discard(generation)

    # -- attempts

    def extend_lease(self, end: int) -> None:
        """Start no attempt after `end` (nanoseconds of CLOCK_BOOTTIME), and kill exclusive ones then."""
        lease = self._shared.lease
        first = lease.left() is None
        if lease.extend(end):
            self._shared.room()
        if first:
            for generation in self._generations:
                if generation.launcher.link is not None:
                    generation.launcher.link.lease_ends()

    def offer(self, assignment: Assignment) -> bool:
        """Send an attempt to a worker. Return False if its pool has no room now."""
        shared, made = self._shared, self._generation
        if shared.closed or (shared.lease.limited and shared.lease.ended()):
            shared.refused = True
            return False
        common = assignment.memory is None and assignment.kind not in ASYNC  # without a call
        pool = made.pools[assignment.pool] if common else made.pool_for(assignment)
        if not pool.offer(assignment):
            shared.refused = True
            return False
        if not shared.check.due:
            shared.check.start()
        return True

    def cancel(self, token: int) -> bool:
        """Stop an attempt whose outcome is stored: ask, then kill. Return False if it does not run."""
        attempt = self._shared.attempts.get(token)
        if attempt is not None:
            attempt.cancel()
            return True
        for pool in self._pools():
            if pool.withdraw(token):
                break
        return False

    def credit(self, token: int, size: int) -> None:
        """Record that a partial of `size` bytes was stored, so that a waiting generator may continue."""
        attempt = self._shared.attempts.get(token)
        if attempt is not None:
            attempt.credit(size)

    def _give_back(self) -> None:
        """Return the attempts that wait for a worker of their own."""
        tokens = [token for pool in self._pools() for token in pool.pending() if pool.withdraw(token)]
        if tokens:
            self._shared.report([Returned(token=token) for token in tokens])

    # -- checks

    def _check(self, stood_still: int) -> bool:
        """Check all workers. Return whether they need another check.

        `stood_still`: nanoseconds for which the gateway was stopped, which count for no limit.
        """
        now = read_clocks()
        if stood_still:
            for worker in self._all_workers():
                worker.stood_still(stood_still, now)
        for generation in list(self._generations):
            for worker in generation.all_workers():
                if worker.attempts:
                    reports = worker.sweep(now)
                    if reports:
                        self._shared.report(reports)
            generation.check(now.mono / 1e9)
            if (
                generation in self._former
                and not generation.all_workers()
                and generation not in self._closing
            ):
                self._closing[generation] = asyncio.create_task(self._close(generation))
        return bool(self._shared.attempts or self._former or self._generation.needs_checks())

    def _pools(self) -> list[Pool]:
        return [pool for generation in self._generations for pool in generation.pools.values()]

    def _all_workers(self) -> list[Worker]:
        return [worker for generation in self._generations for worker in generation.all_workers()]

    # -- drain and stop

    async def drain(self, timeout: float) -> None:
        """Accept nothing new and wait up to `timeout` seconds. Attempts that did not start are returned."""
        self._stop_loading()
        for generation in self._generations:
            generation.launcher.refuse()
        self._give_back()
        shared = self._shared
        await shared.until(lambda: not shared.attempts, timeout)
        for worker in self._all_workers():
            if worker.attempts:
                worker.kill()
            else:
                worker.end()
        await self._until_no_worker_is_left()
        for worker in self._all_workers():
            worker.kill()
        await self._until_no_worker_is_left()

    async def stop(self) -> None:
        """Kill all children and wait until they have ended."""
        self._stop_loading()
        for generation in self._generations:
            generation.stop()
        await self._until_no_worker_is_left()
        self._shared.check.stop()  # it would close a generation whose closing nothing waits for
        await asyncio.gather(
            *self._closing.values(),
            *(generation.launcher.close(_TEARDOWN_TIMEOUT) for generation in self._generations),
        )
        for worker in self._all_workers():
            if not worker.reap():
                worker.ended(None)
        for generation in self._generations:
            generation.launcher.reap_orphans()
        self._shared.orphans.stop()
        if self._lifeline != (-1, -1):
            for descriptor in self._lifeline:  # the kernel kills any remaining children now
                os.close(descriptor)
            self._shared.lease.close()
        self._lifeline = (-1, -1)

    def _stop_loading(self) -> None:
        self._draining = self._shared.closed = True
        for task in self._tasks:
            task.cancel()

    async def _until_no_worker_is_left(self) -> None:
        await self._shared.until(lambda: not self._all_workers(), _TEARDOWN_TIMEOUT)

    def status(self) -> dict[str, Any]:
        """Describe zygote, pools and workers for `/v1/status`."""
        launcher = self._generation.launcher
        link = launcher.link
        pools = self._generation.status()
        for generation in self._former:
            for name, workers in generation.leavers().items():
                pool = pools.setdefault(name, {"running": 0, "workers": []})
                pool["running"] += sum(worker["running"] for worker in workers)
                pool["workers"] += workers
        return {
            "zygote": {
                "pid": link.pid if link is not None and link.alive else None,
                "starts_workers_by": launcher.loaded.mode,
                "restarts": self._renewal.renewals,
                "error": self._renewal.error,
            },
            "deaths": {pool: dict(causes) for pool, causes in self._shared.deaths.items()},
            "pools": pools,
        }
