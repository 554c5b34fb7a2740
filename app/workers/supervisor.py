"""The supervisor: one zygote, two pools, and the port `Workers` to the rest of the gateway."""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
import time
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from app.workers.base import Assignment, Catalog, Returned, Sink, WorkerReport
from app.workers.burial import Strays, bury_group
from app.workers.flight import Flight
from app.workers.flight import now as read_clocks
from app.workers.lifeline import become_subreaper
from app.workers.link import Link, ZygoteLost
from app.workers.pool import Pool, Shape
from app.workers.wire import Boot, Loaded, Spawn
from app.workers.worker import State, Worker

logger = logging.getLogger("busway.workers")

_SWEEP = 0.025  # seconds
_SPAWN_PATIENCE = 10.0  # seconds that a zygote may take to start a worker
_TEARDOWN_PATIENCE = 5.0  # seconds
_FIRST_DELAY, _LONGEST_DELAY, _STEADY = (
    0.05,
    5.0,
    10.0,
)  # seconds between zygotes that die; alive so long is well


class Supervisor:
    """Runs handler code in child processes; see the port for what it promises.

    Args:
        handlers: the folder of handler files.
        processes: worker processes of the process pool.
        threads: threads of the thread pool; also how many coroutines one worker holds.
        max_result_bytes: a larger value fails its attempt.
        sink: told all reports, in batches, in order per attempt.
        on_room: called when an offer that was refused may be taken now.
        import_timeout: seconds that one file may take to import.
        default_pool: the pool to start at once; the other starts when it is first wanted.
        grace: seconds that an overdue or cancelled attempt gets to end by itself.
        max_event_bytes: more data than this cannot be published.
    """

    def __init__(  # noqa: PLR0913 - the settings of the workers, each by name
        self,
        *,
        handlers: Path,
        processes: int,
        threads: int,
        max_result_bytes: int,
        sink: Sink,
        on_room: Callable[[], None],
        import_timeout: float = 10.0,
        default_pool: str = "process",
        grace: float = 0.5,
        max_event_bytes: int = 1_048_576,
    ) -> None:
        self.draining = False
        self._boot = Boot(str(handlers.resolve()), {}, max_result_bytes, max_event_bytes)
        self._sink, self._on_room = sink, on_room
        self._import_timeout = import_timeout
        self._default_pool = default_pool
        self._numbers = itertools.count(1)
        shapes = {"process": Shape(processes, 1, threads, grace), "thread": Shape(1, threads, threads, grace)}
        self._pools = {name: Pool(name, shape, self, self._number) for name, shape in shapes.items()}
        self._link: Link | None = None
        self._links: set[Link] = set()
        self._loaded = Loaded([], "fork")
        self._launched: dict[int, Worker] = {}
        self._by_pid: dict[int, Worker] = {}
        self._groups: set[int] = set()
        self._carriers: dict[int, Worker] = {}
        self._haunted: dict[int, int] = {}
        self._parked: deque[Assignment] = deque()
        self._refused = self._sweeping = self._stopping = False
        self._restarts = 0
        self._zygote_error: str | None = None
        self._reviving: asyncio.Task[None] | None = None
        self._lifeline: tuple[int, int] = (-1, -1)
        self._strays = Strays()
        self._deaths: dict[str, Counter[str]] = {name: Counter() for name in self._pools}

    def _number(self) -> int:
        return next(self._numbers)

    async def start(self) -> Catalog:
        """Start the zygote and return what the handlers folder holds, less what hangs or kills it."""
        become_subreaper()
        self._lifeline = os.pipe()
        self._loaded = await self._load()
        self._pools[self._default_pool].want()
        await self._until(self._pools[self._default_pool].complete, self._import_timeout)
        return self._loaded.files

    async def _load(self) -> Loaded:
        while True:
            link = Link(self, self._lifeline[0])
            self._links.add(link)
            try:
                loaded = await link.load(self._boot, self._import_timeout)
            except ZygoteLost as lost:
                if lost.file is None or lost.file in self._boot.skip:
                    raise
                logger.warning("handler file %s is set aside: %s", lost.file, lost.reason)
                self._boot.skip[lost.file] = lost.reason
                continue
            if link.alive:
                self._link = link
                return loaded

    async def _until(self, condition: Callable[[], bool], patience: float) -> bool:
        deadline = time.monotonic() + patience
        while not condition():
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(0.002)
        return True

    def offer(self, assignment: Assignment) -> bool:
        """Hand over an attempt; False if its pool has no room for it now."""
        if self.draining:
            return False
        if assignment.run in self._haunted:
            # An attempt of this run is given up but may be running still: this one waits for its end.
            self._parked.append(assignment)
            return True
        return self._place(assignment)

    def _place(self, assignment: Assignment) -> bool:
        worker = self._pools[assignment.pool].offer(assignment)
        if worker is None:
            self._refused = True
            return False
        self._carriers[assignment.token] = worker
        if not self._sweeping:
            self._sweep_later()
        return True

    def cancel(self, token: int) -> None:
        """End an attempt that the store counts as over: ask, then kill."""
        for assignment in self._parked:
            if assignment.token == token:
                self._parked.remove(assignment)
                return
        worker = self._carriers.get(token)
        flight = worker.flights.get(token) if worker is not None else None
        if worker is not None and flight is not None:
            if not flight.settled:
                self.settled(flight)
            worker.cancel(flight)
        elif any(pool.withdraw(token) for pool in self._pools.values()):
            self._carriers.pop(token, None)

    def credit(self, token: int, size: int) -> None:
        """Tell that a partial of `size` bytes was stored, so that a slowed generator may go on."""
        worker = self._carriers.get(token)
        flight = worker.flights.get(token) if worker is not None else None
        if worker is not None and flight is not None:
            worker.page.credit(flight.seat, size)

    def _lay(self, flight: Flight) -> None:
        run = flight.assignment.run
        self._haunted[run] -= 1
        if not self._haunted[run]:
            del self._haunted[run]

    def report(self, told: list[WorkerReport], left: list[Flight]) -> None:
        """Pass on what a worker told; `left` are attempts that no worker has any more."""
        for flight in left:
            self._carriers.pop(flight.assignment.token, None)
            if flight.settled and not flight.recalled:
                self._lay(flight)
        if told:
            self._sink(told)

    def settled(self, flight: Flight) -> None:
        """An attempt is given up while it may still be running: its run waits for the end of that."""
        run = flight.assignment.run
        self._haunted[run] = self._haunted.get(run, 0) + 1

    def lingers(self, run: int) -> bool:
        """Whether an attempt of that run was given up and may still run."""
        if run not in self._haunted:
            return False
        self._refused = True
        return True

    def forget(self, token: int) -> None:
        """No worker has an attempt of that token."""
        self._carriers.pop(token, None)

    def room(self) -> None:
        """Place what is parked, then tell who was refused."""
        for _ in range(len(self._parked)):
            assignment = self._parked.popleft()
            if assignment.run in self._haunted or not self._place(assignment):
                self._parked.append(assignment)
        if self._refused and not self.draining:
            self._refused = False
            self._on_room()

    def can_launch(self) -> bool:
        """Whether there is a zygote that can start workers."""
        return self._link is not None and self._link.alive and not self._stopping

    def enlist(self, worker: Worker, spawn: Spawn, descriptors: list[int]) -> None:
        """Have the zygote start a worker's process."""
        if self._link is not None:
            self._launched[worker.number] = worker
            self._link.spawn(worker.number, spawn, descriptors)
        self._sweep_later()

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

    def buried(self, worker: Worker) -> None:
        """A worker is dead and closed."""
        self._deaths[worker.pool][worker.cause] += 1
        self._launched.pop(worker.number, None)
        if worker.pid is not None and self._by_pid.get(worker.pid) is worker:
            del self._by_pid[worker.pid]

    def _bury(self) -> None:
        # What the zygote had not buried when it died came to us; its groups are known by their leaders.
        for group in self._groups - self._by_pid.keys():
            bury_group(group)
            self._groups.discard(group)

    def down(self, link: Link) -> None:
        """The zygote is gone: its workers run on, a new one is started."""
        self._links.discard(link)
        if link is not self._link or self._stopping:
            return
        logger.warning("the zygote %d died; running workers go on, a new one is started", link.pid)
        self._link = None
        self._strays.watch()
        for worker in list(self._by_pid.values()):
            worker.reap()
        self._bury()
        for worker in list(self._launched.values()):
            worker.ended(None)  # if it was started all the same, it ends with its socket
        self._reviving = asyncio.get_running_loop().create_task(self._revive())

    async def _revive(self) -> None:
        delay = 0.0
        while not self._stopping:
            await asyncio.sleep(delay)
            delay = min(_LONGEST_DELAY, max(_FIRST_DELAY, delay * 2))
            try:
                loaded = await self._load()
            except (ZygoteLost, OSError) as problem:
                self._zygote_error = str(problem)
                logger.error("the zygote could not be started: %s", problem)  # noqa: TRY400 - the reason is all there is
                continue
            self._restarts += 1
            self._zygote_error = None
            self._compare(loaded)
            for pool in self._pools.values():
                pool.fill()
            self.room()
            return

    def _compare(self, loaded: Loaded) -> None:
        before = {file.file: file.digest for file in self._loaded.files}
        if before != {file.file: file.digest for file in loaded.files}:
            logger.warning(
                "handler files have changed: restart the gateway to register what they declare now"
            )
        self._loaded.mode = loaded.mode

    def _sweep_later(self) -> None:
        if not self._sweeping:
            self._sweeping = True
            asyncio.get_running_loop().call_later(_SWEEP, self._sweep)

    def _sweep(self) -> None:
        self._sweeping = False
        now = read_clocks()
        for pool in self._pools.values():
            for worker in pool.everyone():
                if worker.flights:
                    self.report(worker.sweep(now), [])
            pool.check(now.mono / 1e9)
        self._check_zygote(now.mono / 1e9)
        if self._carriers or self._parked or any(self._unsteady()):
            self._sweep_later()

    def _unsteady(self) -> list[Worker]:
        return [
            worker
            for pool in self._pools.values()
            for worker in pool.everyone()
            if worker.state is not State.READY or worker.flights
        ]

    def _check_zygote(self, now: float) -> None:
        late = any(now - worker.launched_at > _SPAWN_PATIENCE for worker in self._launched.values())
        if late and self._link is not None:
            self._link.kill()

    async def drain(self, timeout: float) -> None:
        """Take nothing new, let what runs end for up to `timeout` seconds; what did not start is returned."""
        self.draining = True
        self._give_back()
        await self._until(lambda: not self._carriers, timeout)
        for worker in self._everyone():
            if worker.flights:
                worker.kill()
            else:
                worker.end()
        await self._until(lambda: not self._everyone(), _TEARDOWN_PATIENCE)
        for worker in self._everyone():
            worker.kill()
        await self._until(lambda: not self._everyone(), _TEARDOWN_PATIENCE)

    def _give_back(self) -> None:
        tokens = [assignment.token for assignment in self._parked]
        self._parked.clear()
        for pool in self._pools.values():
            for token in pool.pending():
                pool.withdraw(token)
                self._carriers.pop(token, None)
                tokens.append(token)
        if tokens:
            self._sink([Returned(token=token) for token in tokens])

    def _everyone(self) -> list[Worker]:
        return [worker for pool in self._pools.values() for worker in pool.everyone()]

    async def stop(self) -> None:
        """End all children at once and wait until they are gone."""
        self.draining = self._stopping = True
        if self._reviving is not None:
            self._reviving.cancel()
        for pool in self._pools.values():
            pool.stop()
        await self._until(lambda: not self._everyone(), _TEARDOWN_PATIENCE)
        for link in list(self._links):
            await link.close(_TEARDOWN_PATIENCE)
        for worker in self._everyone():
            if not worker.reap():
                worker.ended(None)
        self._bury()
        self._strays.stop()
        for descriptor in self._lifeline:  # whatever were left is killed by the kernel now
            if descriptor >= 0:
                os.close(descriptor)
        self._lifeline = (-1, -1)

    def status(self) -> dict[str, Any]:
        """Describe zygote, pools and workers for `/v1/status`."""
        link = self._link
        return {
            "zygote": {
                "pid": link.pid if link is not None and link.alive else None,
                "starts_workers_by": self._loaded.mode,
                "restarts": self._restarts,
                "error": self._zygote_error,
            },
            "parked": len(self._parked),
            "deaths": {pool: dict(causes) for pool, causes in self._deaths.items()},
            "pools": {name: pool.status() for name, pool in self._pools.items()},
        }
