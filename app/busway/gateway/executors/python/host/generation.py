"""A generation: one import of the handlers folder, with its zygote and the pools of workers with that code.

New code, or the death of the zygote, starts a new generation. The workers of the old one finish their
attempts and exit. Its zygote, if alive, stays until then, because it reaps them.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from busway.gateway.executors.port import Catalog, WorkerReport
from busway.gateway.executors.python.host.attempt import SentAttempt
from busway.gateway.executors.python.host.link import Link, ZygoteLost
from busway.gateway.executors.python.host.pool import MemoryPool, Pool, PoolConfig, describe
from busway.gateway.executors.python.host.watching import Watched
from busway.gateway.executors.python.host.worker import Worker, WorkerState
from busway.gateway.executors.python.wire.protocol import Boot, Loaded, Spawn, digest_of
from busway.gateway.executors.python.wire.reaping import reap_group

logger = logging.getLogger("busway.workers")

_SPAWN_TIMEOUT = 10.0  # seconds for a zygote to start a worker


class GenerationListener(Protocol):
    """What a generation needs from the supervisor."""

    draining: bool

    def report(self, reports: list[WorkerReport], released: list[SentAttempt]) -> None:
        """Pass on a worker's reports. `released`: attempts that no worker has any more."""

    def forget(self, token: int) -> None:
        """No worker has the attempt with this token."""

    def room(self) -> None:
        """A pool may accept attempts again."""

    def lost(self, generation: Generation) -> None:
        """The generation can start no more workers."""

    def died(self, worker: Worker) -> None:
        """A worker has died."""

    def watch(self) -> None:
        """There are workers to check."""


class Plan(msgspec.Struct, frozen=True):
    """Configuration of the pools. `numbers` returns the next worker number."""

    process: PoolConfig
    thread: PoolConfig
    numbers: Callable[[], int]


class Generation:
    """Loaded once and replaced as a whole.

    Args:
        listener: receives the notifications.
        plan: the configuration of the pools.
        boot: what zygote and workers need.
        watched: the state of the files just before the import.
    """

    def __init__(self, listener: GenerationListener, plan: Plan, boot: Boot, watched: Watched) -> None:
        self.boot = boot
        self._watched = watched
        self.link: Link | None = None
        self.links: set[Link] = set()
        self.loaded = Loaded([], "fork")
        self.code_digest = ""
        self._listener, self._plan = listener, plan
        self._outdated = self._left = False
        self._launched: dict[int, Worker] = {}
        self._by_pid: dict[int, Worker] = {}
        self._groups: set[int] = set()
        self.pools: dict[str, Pool] = {
            "process": Pool("process", plan.process, self, plan.numbers),
            "thread": Pool("thread", plan.thread, self, plan.numbers),
        }

    async def load(self, lifeline: int, timeout: float) -> None:
        """Start a zygote that imports the folder. Files that hang or crash it are skipped next time.

        Raises:
            ZygoteLost: it ended, but not because of a file.
            OSError: it could not be started.
        """
        while True:
            link = Link(self, lifeline)
            self.links.add(link)
            try:
                loaded = await link.load(self.boot, timeout)
            except ZygoteLost as lost:
                if lost.file is None or lost.file in self.boot.skip:
                    raise
                logger.warning("handler file %s is skipped until it changes: %s", lost.file, lost.reason)
                self.boot.skip[lost.file] = lost.reason
                continue
            if link.alive:
                self.link, self.loaded, self.code_digest = link, loaded, digest_of(loaded.files)
                return

    @property
    def files(self) -> Catalog:
        """What the handlers folder defines."""
        return self.loaded.files

    @property
    def draining(self) -> bool:
        """Whether the supervisor drains, so that no worker may start."""
        return self._listener.draining

    def confined(self, handler: str) -> Pool:
        """Return the pool of a handler with a memory limit."""
        name = f"memory:{handler}"
        pool = self.pools.get(name)
        if pool is None:
            config = msgspec.structs.replace(self._plan.process, coroutines=1)
            pool = self.pools[name] = MemoryPool(name, config, self, self._plan.numbers)
        return pool

    def all_workers(self) -> list[Worker]:
        """Return all workers that are not dead."""
        return [worker for pool in self.pools.values() for worker in pool.all_workers()]

    def complete(self) -> bool:
        """Return whether all pools in use have their workers."""
        return all(pool.complete() for pool in self.pools.values() if pool.wanted)

    def needs_checks(self) -> bool:
        """Return whether it has workers that need checks."""
        return any(pool.needs_checks() for pool in self.pools.values())

    def leave(self) -> None:
        """Let all workers exit when their attempts end, and start no more."""
        self._left = True
        for pool in self.pools.values():
            pool.leave()

    def stop(self) -> None:
        """Kill all workers."""
        self._left = True
        for pool in self.pools.values():
            pool.stop()

    def check(self, now: float) -> None:
        """Kill late workers and a zygote that does not respond. Remove pools that are not needed."""
        for name, pool in list(self.pools.items()):
            pool.check(now)
            if isinstance(pool, MemoryPool) and pool.idle():
                del self.pools[name]
        late = any(now - worker.launched_at > _SPAWN_TIMEOUT for worker in self._launched.values())
        if late and self.link is not None:
            self.link.kill()

    # -- called by the pools

    def can_launch(self) -> bool:
        """Return whether there is a zygote that can start workers."""
        return self.link is not None and self.link.alive and not (self._left or self._outdated)

    def start_worker(self, worker: Worker, spawn: Spawn, descriptors: list[int]) -> None:
        """Ask the zygote to start a worker's process."""
        if self.link is not None:
            self._launched[worker.number] = worker
            self.link.spawn(worker.number, spawn, descriptors)
        self._listener.watch()

    def outdated(self) -> None:
        """A worker that imported the folder itself found other files there."""
        self._outdated = True
        self._listener.lost(self)

    def report(self, reports: list[WorkerReport], released: list[SentAttempt]) -> None:
        """Pass the reports to the supervisor."""
        self._listener.report(reports, released)

    def forget(self, token: int) -> None:
        """Pass it to the supervisor."""
        self._listener.forget(token)

    def room(self) -> None:
        """Pass it to the supervisor."""
        self._listener.room()

    def closed(self, worker: Worker) -> None:
        """A worker is dead and closed."""
        self._listener.died(worker)
        self._launched.pop(worker.number, None)
        if worker.pid is not None and self._by_pid.get(worker.pid) is worker:
            del self._by_pid[worker.pid]

    # -- called by the link to the zygote

    def spawned(self, number: int, pid: int, pidfd: int) -> None:
        """The zygote started a worker."""
        worker = self._launched.pop(number, None)
        if worker is None or worker.state is WorkerState.DEAD:
            os.close(pidfd)
            return
        self._by_pid[pid] = worker
        self._groups.add(pid)
        worker.spawned(pid, pidfd)

    def refused(self, number: int, reason: str) -> None:
        """The zygote could not start a worker."""
        logger.error("could not start a worker: %s", reason)
        worker = self._launched.pop(number, None)
        if worker is not None:
            worker.ended(None)

    def exited(self, pid: int, status: int) -> None:
        """The zygote reaped a worker."""
        worker = self._by_pid.get(pid)
        if worker is not None:
            worker.ended(status)

    def entered(self, directory: str) -> None:
        """Watch a directory of the user's project, because imports search it."""
        self._watched.enter(directory)

    def down(self, link: Link) -> None:
        """The zygote has ended. Its workers continue."""
        self.links.discard(link)
        if link is not self.link:
            return
        if not self._left:
            logger.warning("zygote %d died; starting a new one, running workers continue", link.pid)
        self.link = None
        for worker in list(self._by_pid.values()):
            worker.reap()
        self.reap_orphans()
        for worker in list(self._launched.values()):
            worker.ended(None)  # if it was started nevertheless, closing its socket ends it
        self._listener.lost(self)

    def reap_orphans(self) -> None:
        """Reap what the dead zygote did not reap: groups of dead workers, each with its leader's pid."""
        for group in self._groups - self._by_pid.keys():
            reap_group(group)
            self._groups.discard(group)

    async def close(self, timeout: float) -> None:
        """Let the zygote exit, and wait until it has ended."""
        await asyncio.gather(*(link.close(timeout) for link in list(self.links)))

    def status(self) -> dict[str, Any]:
        """Describe the pools for `/v1/status`."""
        return {name: pool.status() for name, pool in self.pools.items()}

    def leavers(self) -> dict[str, list[dict[str, Any]]]:
        """Describe the remaining workers, by pool."""
        return {
            name: [describe(worker) for worker in pool.all_workers() if worker.pid is not None]
            for name, pool in self.pools.items()
        }
