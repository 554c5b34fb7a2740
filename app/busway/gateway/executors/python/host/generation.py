"""A generation: one import of the handlers folder, with its zygote and the pools of workers with that code.

New code, or the death of the zygote, starts a new generation. The workers of the old one finish their
attempts and exit. Its zygote, if alive, stays until then, because it reaps them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from busway.domain.callables import ASYNC
from busway.gateway.executors.port import Assignment, Catalog
from busway.gateway.executors.python.host.launcher import Launcher
from busway.gateway.executors.python.host.pool import MemoryPool, Pool, PoolConfig, describe
from busway.gateway.executors.python.host.shared import Shared
from busway.gateway.executors.python.host.watching import Watched
from busway.gateway.executors.python.host.worker import Worker
from busway.gateway.executors.python.wire.protocol import Boot

COROUTINES = "process:async"
"""The part of the process pool that runs `async def` targets.

Its workers run nothing else, so that a crash of a sync target never ends a coroutine. It exists from the
first such attempt on.
"""


class Plan(msgspec.Struct, frozen=True):
    """Configuration of the pools. `numbers` returns the next worker number."""

    process: PoolConfig
    thread: PoolConfig
    numbers: Callable[[], int]


class Generation:
    """Loaded once and replaced as a whole.

    Args:
        shared: the state that all pools share.
        plan: the configuration of the pools.
        boot: what zygote and workers need.
        watched: the state of the files just before the import.
    """

    def __init__(self, shared: Shared, plan: Plan, boot: Boot, watched: Watched) -> None:
        self.launcher = Launcher(shared, boot, watched)
        self._shared, self._plan = shared, plan
        self.pools: dict[str, Pool] = {}
        for name in ("process", "thread"):
            self._add(name)

    def _add(self, name: str) -> Pool:
        config = self._plan.thread if name == "thread" else self._plan.process
        pool = self.pools[name] = Pool(name, config, self._shared, self.launcher, self._plan.numbers)
        return pool

    @property
    def files(self) -> Catalog:
        """What the handlers folder defines."""
        return self.launcher.loaded.files

    def pool_for(self, assignment: Assignment) -> Pool:
        """Return the pool whose workers may run this attempt."""
        if assignment.memory is not None:
            return self._confined(assignment.handler)
        if assignment.kind in ASYNC and assignment.pool == "process":
            return self.pools.get(COROUTINES) or self._add(COROUTINES)
        return self.pools[assignment.pool]

    def want(self, name: str) -> None:
        """Start the workers of a pool that another generation uses."""
        if name == COROUTINES:
            self._add(name)
        if name in self.pools:
            self.pools[name].want()

    def _confined(self, handler: str) -> Pool:
        """Return the pool of a handler with a memory limit."""
        name = f"memory:{handler}"
        pool = self.pools.get(name)
        if pool is None:
            config = msgspec.structs.replace(self._plan.process, coroutines=1)
            pool = MemoryPool(name, config, self._shared, self.launcher, self._plan.numbers)
            self.pools[name] = pool
        return pool

    def all_workers(self) -> list[Worker]:
        """Return all workers that are not dead."""
        return [worker for pool in self.pools.values() for worker in pool.all_workers()]

    def complete(self) -> bool:
        """Return whether all pools in use have their workers."""
        return all(pool.complete() for pool in self.pools.values() if pool.wanted)

    def booted(self) -> bool:
        """Return whether it is complete, or will never be because its zygote cannot start workers."""
        return self.complete() or self.launcher.lost

    def needs_checks(self) -> bool:
        """Return whether it has workers that need checks."""
        return any(pool.needs_checks() for pool in self.pools.values())

    def leave(self) -> None:
        """Let all workers exit when their attempts end, and start no more."""
        self.launcher.refuse()
        for pool in self.pools.values():
            pool.leave()

    def stop(self) -> None:
        """Kill all workers."""
        self.launcher.refuse(stopped=True)
        for pool in self.pools.values():
            pool.stop()

    def check(self, now: float) -> None:
        """Kill late workers and a zygote that does not respond. Remove pools that are not needed."""
        for name, pool in list(self.pools.items()):
            pool.check(now)
            if isinstance(pool, MemoryPool) and pool.idle():
                del self.pools[name]
        self.launcher.check(now)

    def status(self) -> dict[str, Any]:
        """Describe the pools for `/v1/status`."""
        return {name: pool.status() for name, pool in self.pools.items()}

    def leavers(self) -> dict[str, list[dict[str, Any]]]:
        """Describe the remaining workers, by pool."""
        return {
            name: [describe(worker) for worker in pool.all_workers() if worker.pid is not None]
            for name, pool in self.pools.items()
        }
