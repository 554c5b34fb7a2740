"""The zygote of one generation, as the gateway sees it, and the workers that it has started."""

from __future__ import annotations

import asyncio
import logging
import os

from busway.gateway.executors.python.host.link import (
    Down,
    Entered,
    Exited,
    Link,
    NotSpawned,
    Spawned,
    ZygoteLost,
    ZygoteReport,
)
from busway.gateway.executors.python.host.reaping import group_exists, reap_group
from busway.gateway.executors.python.host.shared import Shared
from busway.gateway.executors.python.host.states import WorkerState
from busway.gateway.executors.python.host.watching import Watched
from busway.gateway.executors.python.host.worker import Worker
from busway.gateway.executors.python.wire.protocol import Boot, Loaded, digest_of

logger = logging.getLogger("busway.workers")

_SPAWN_TIMEOUT = 10.0  # seconds for a zygote to start a worker


class Launcher:
    """Loads the handlers folder once, then starts workers with that code while its zygote lives.

    Args:
        shared: the state that all pools share.
        boot: what zygote and workers need.
        watched: the state of the files just before the import.

    Attributes:
        link: the link to the zygote, None before it has loaded the folder and after it ended.
        loaded: what the folder defines.
        code_digest: identifies the code that workers must have.
        lost: it cannot start workers any more, although it should.
        groups: the process groups of its workers. Those of dead ones may have processes left.
    """

    def __init__(self, shared: Shared, boot: Boot, watched: Watched) -> None:
        self.link: Link | None = None
        self.loaded = Loaded([], "fork")
        self.code_digest = ""
        self.lost = False
        self._shared, self._boot, self._watched = shared, boot, watched
        self._links: set[Link] = set()
        self._closed = self._stopped = False
        self._launched: dict[int, Worker] = {}
        self._by_pid: dict[int, Worker] = {}
        self.groups: set[int] = set()

    async def load(self, lifeline: int, timeout: float) -> None:
        """Start a zygote that imports the folder. Files that hang or crash it are skipped next time.

        Raises:
            ZygoteLost: it ended, but not because of a file.
            OSError: it could not be started.
        """
        while True:
            link = Link(self._take, lifeline, self._shared.lease, self._shared.environment)
            self._links.add(link)
            try:
                loaded = await link.load(self._boot, timeout)
            except ZygoteLost as lost:
                if lost.file is None or lost.file in self._boot.skip:
                    raise
                logger.warning("handler file %s is skipped until it changes: %s", lost.file, lost.reason)
                self._boot.skip[lost.file] = lost.reason
                continue
            if link.alive:
                self.link, self.loaded, self.code_digest = link, loaded, digest_of(loaded.files)
                return

    @property
    def open(self) -> bool:
        """Whether it can start workers."""
        return self.link is not None and self.link.alive and not (self._closed or self.lost)

    def refuse(self, *, stopped: bool = False) -> None:
        """Start no more workers. `stopped`: the present ones are being killed, too."""
        self._closed = True
        self._stopped |= stopped

    def launch(self, worker: Worker) -> None:
        """Ask the zygote to start a worker's process.

        Raises:
            OSError: there are no resources to ask it. The worker is closed.
        """
        try:
            if self.link is not None:
                self.link.spawn(worker.number, worker.spawn, worker.ends.given)
        except OSError:
            worker.discard()
            raise
        finally:
            worker.ends.handed_over()
        self._launched[worker.number] = worker
        self._shared.check.start()

    def outdated(self) -> None:
        """Record that a worker that imported the folder itself found other files there."""
        self._lose()

    def check(self, now: float) -> None:
        """Kill a zygote that does not start workers. `now`: seconds of the monotonic clock."""
        late = any(now - worker.launched_at > _SPAWN_TIMEOUT for worker in self._launched.values())
        if late and self.link is not None:
            self.link.kill()

    def closed(self, worker: Worker) -> None:
        """Forget a worker that is dead and closed."""
        self._launched.pop(worker.number, None)
        if worker.pid is not None and self._by_pid.get(worker.pid) is worker:
            del self._by_pid[worker.pid]
        self._forget_groups()

    def reap_orphans(self) -> None:
        """Reap what the dead zygote did not reap: groups of dead workers, each with its leader's pid."""
        for group in self.groups - self._by_pid.keys():
            reap_group(group)
        self._forget_groups()

    def _forget_groups(self) -> None:
        """Forget the groups of which no process is left. In others a killed process may not be dead yet."""
        self.groups = {group for group in self.groups if group in self._by_pid or group_exists(group)}

    async def close(self, timeout: float) -> None:
        """Let the zygote exit, and wait until it has ended."""
        await asyncio.gather(*(link.close(timeout) for link in list(self._links)))

    def _take(self, link: Link, report: ZygoteReport) -> None:
        if isinstance(report, Spawned):
            self._spawned(report)
        elif isinstance(report, Exited):
            worker = self._by_pid.get(report.pid)
            if worker is not None and not worker.has_exited():
                link.refute(f"worker {report.pid} has not ended")
            elif worker is not None:
                worker.ended(report.status)
        elif isinstance(report, NotSpawned):
            worker = self._launched.pop(report.number, None)
            if worker is not None:
                worker.refused(report.reason)
        elif isinstance(report, Entered):
            self._watched.enter(report.directory)
        elif isinstance(report, Down):
            self._down(link)

    def _spawned(self, report: Spawned) -> None:
        worker = self._launched.pop(report.number, None)
        if worker is None or worker.state is WorkerState.DEAD:
            os.close(report.pidfd)
            return
        self._by_pid[report.pid] = worker
        self.groups.add(report.pid)
        try:
            worker.spawned(report.pid, report.pidfd)
        except OSError as problem:  # there are no resources to watch it
            worker.kill()
            worker.refused(problem.strerror or str(problem))

    def _down(self, link: Link) -> None:
        """Continue without the zygote. Its workers continue, too."""
        self._links.discard(link)
        if link is not self.link:
            return
        if not self._closed:
            logger.warning("zygote %d died; starting a new one, running workers continue", link.pid)
        self.link = None
        for worker in list(self._by_pid.values()):
            worker.reap()
        self.reap_orphans()
        left = bool(self.groups or self._launched)
        for worker in list(self._launched.values()):
            worker.ended(None)  # if it was started nevertheless, closing its socket ends it
        if left and not self._stopped:
            self._shared.orphans.watch()
        self._lose()

    def _lose(self) -> None:
        self.lost = True
        self._shared.reload.set()
        self._shared.changed.set()
