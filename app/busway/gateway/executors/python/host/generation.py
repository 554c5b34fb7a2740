"""One import of the handlers folder: its zygote, and the pools whose workers have that code.

New code, or a zygote that died, means a new generation. The workers of the former one finish what
they have and end; its zygote, if it lives, stays until then, because it is their reaper.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from busway.gateway.executors.port import Catalog, WorkerReport
from busway.gateway.executors.python.host.flight import Flight
from busway.gateway.executors.python.host.link import Link, ZygoteLost
from busway.gateway.executors.python.host.pool import Confined, Pool, Shape, describe
from busway.gateway.executors.python.host.watching import Watched
from busway.gateway.executors.python.host.worker import State, Worker
from busway.gateway.executors.python.wire.burial import bury_group
from busway.gateway.executors.python.wire.protocol import Boot, Loaded, Spawn, mark_of

logger = logging.getLogger("busway.workers")

_SPAWN_PATIENCE = 10.0  # seconds that a zygote may take to start a worker


class House(Protocol):
    """The supervisor as its generations see it."""

    draining: bool

    def report(self, told: list[WorkerReport], left: list[Flight]) -> None:
        """Pass on what a worker told; `left` are attempts that no worker has any more."""

    def forget(self, token: int) -> None:
        """No worker has an attempt of that token."""

    def room(self) -> None:
        """There may be room for attempts that were refused."""

    def lost(self, generation: Generation) -> None:
        """The generation can start no workers any more."""

    def died(self, worker: Worker) -> None:
        """A worker is dead."""

    def watch(self) -> None:
        """There are workers to look at."""


class Plan(msgspec.Struct, frozen=True):
    """How generations are to be: the shapes of the pools, and where worker numbers come from."""

    process: Shape
    thread: Shape
    numbers: Callable[[], int]


class Generation:
    """Loaded once, replaced as a whole.

    Args:
        house: told what happens.
        plan: the pools.
        boot: what zygote and workers must know.
        watched: the files as they were just before they were imported.
    """

    def __init__(self, house: House, plan: Plan, boot: Boot, watched: Watched) -> None:
        self.boot = boot
        self._watched = watched
        self.link: Link | None = None
        self.links: set[Link] = set()
        self.loaded = Loaded([], "fork")
        self.mark = ""
        self._house, self._plan = house, plan
        self._outdated = self._left = False
        self._launched: dict[int, Worker] = {}
        self._by_pid: dict[int, Worker] = {}
        self._groups: set[int] = set()
        self.pools: dict[str, Pool] = {
            "process": Pool("process", plan.process, self, plan.numbers),
            "thread": Pool("thread", plan.thread, self, plan.numbers),
        }

    async def load(self, lifeline: int, patience: float) -> None:
        """Have a zygote import the folder; what hangs or kills it is set aside.

        Raises:
            ZygoteLost: it ended, and no file is to blame.
            OSError: it could not be started.
        """
        while True:
            link = Link(self, lifeline)
            self.links.add(link)
            try:
                loaded = await link.load(self.boot, patience)
            except ZygoteLost as lost:
                if lost.file is None or lost.file in self.boot.skip:
                    raise
                logger.warning("handler file %s is set aside: %s", lost.file, lost.reason)
                self.boot.skip[lost.file] = lost.reason
                continue
            if link.alive:
                self.link, self.loaded, self.mark = link, loaded, mark_of(loaded.files)
                return

    @property
    def files(self) -> Catalog:
        """What the folder holds."""
        return self.loaded.files

    @property
    def draining(self) -> bool:
        """Whether no worker is to be started because all is to end."""
        return self._house.draining

    def confined(self, handler: str) -> Pool:
        """Return the pool of a handler with a memory limit."""
        name = f"memory:{handler}"
        pool = self.pools.get(name)
        if pool is None:
            shape = msgspec.structs.replace(self._plan.process, coroutines=1)
            pool = self.pools[name] = Confined(name, shape, self, self._plan.numbers)
        return pool

    def everyone(self) -> list[Worker]:
        """Return all workers that are not dead."""
        return [worker for pool in self.pools.values() for worker in pool.everyone()]

    def complete(self) -> bool:
        """Whether all pools that are wanted have their workers."""
        return all(pool.complete() for pool in self.pools.values() if pool.wanted)

    def unsteady(self) -> bool:
        """Whether it has workers that are to be looked at."""
        return any(pool.unsteady() for pool in self.pools.values())

    def leave(self) -> None:
        """Have all workers end when they are done, and start none."""
        self._left = True
        for pool in self.pools.values():
            pool.leave()

    def stop(self) -> None:
        """Kill all workers."""
        self._left = True
        for pool in self.pools.values():
            pool.stop()

    def check(self, now: float) -> None:
        """End workers whose time is up, a zygote that does not listen, and pools that nobody needs."""
        for name, pool in list(self.pools.items()):
            pool.check(now)
            if isinstance(pool, Confined) and pool.idle():
                del self.pools[name]
        late = any(now - worker.launched_at > _SPAWN_PATIENCE for worker in self._launched.values())
        if late and self.link is not None:
            self.link.kill()

    # -- as the pools see it

    def can_launch(self) -> bool:
        """Whether there is a zygote that can start workers."""
        return self.link is not None and self.link.alive and not (self._left or self._outdated)

    def enlist(self, worker: Worker, spawn: Spawn, descriptors: list[int]) -> None:
        """Have the zygote start a worker's process."""
        if self.link is not None:
            self._launched[worker.number] = worker
            self.link.spawn(worker.number, spawn, descriptors)
        self._house.watch()

    def outdated(self) -> None:
        """A worker that had to import the folder by itself found other files there."""
        self._outdated = True
        self._house.lost(self)

    def report(self, told: list[WorkerReport], left: list[Flight]) -> None:
        """Pass it on."""
        self._house.report(told, left)

    def forget(self, token: int) -> None:
        """Pass it on."""
        self._house.forget(token)

    def room(self) -> None:
        """Pass it on."""
        self._house.room()

    def buried(self, worker: Worker) -> None:
        """A worker is dead and closed."""
        self._house.died(worker)
        self._launched.pop(worker.number, None)
        if worker.pid is not None and self._by_pid.get(worker.pid) is worker:
            del self._by_pid[worker.pid]

    # -- as the zygote's link sees it

    def spawned(self, number: int, pid: int, pidfd: int) -> None:
        """The zygote started a worker."""
        worker = self._launched.pop(number, None)
        if worker is None or worker.state is State.DEAD:
            os.close(pidfd)
            return
        self._by_pid[pid] = worker
        self._groups.add(pid)
        worker.spawned(pid, pidfd)

    def refused(self, number: int, reason: str) -> None:
        """The zygote could not start a worker."""
        logger.error("a worker could not be started: %s", reason)
        worker = self._launched.pop(number, None)
        if worker is not None:
            worker.ended(None)

    def exited(self, pid: int, status: int) -> None:
        """The zygote reaped a worker."""
        worker = self._by_pid.get(pid)
        if worker is not None:
            worker.ended(status)

    def entered(self, directory: str) -> None:
        """The imports search a directory of the user's project."""
        self._watched.enter(directory)

    def down(self, link: Link) -> None:
        """The zygote is gone: its workers run on."""
        self.links.discard(link)
        if link is not self.link:
            return
        if not self._left:
            logger.warning("the zygote %d died; running workers go on, a new one is started", link.pid)
        self.link = None
        for worker in list(self._by_pid.values()):
            worker.reap()
        self.bury()
        for worker in list(self._launched.values()):
            worker.ended(None)  # if it was started all the same, it ends with its socket
        self._house.lost(self)

    def bury(self) -> None:
        """Bury what the zygote had not when it died: it came to us; groups are known by their leaders."""
        for group in self._groups - self._by_pid.keys():
            bury_group(group)
            self._groups.discard(group)

    async def close(self, patience: float) -> None:
        """Let the zygote end, and wait until it is gone."""
        await asyncio.gather(*(link.close(patience) for link in list(self.links)))

    def status(self) -> dict[str, Any]:
        """Describe the pools for `/v1/status`."""
        return {name: pool.status() for name, pool in self.pools.items()}

    def leavers(self) -> dict[str, list[dict[str, Any]]]:
        """Describe the workers that are left, by pool."""
        return {
            name: [describe(worker) for worker in pool.everyone() if worker.pid is not None]
            for name, pool in self.pools.items()
        }
