"""Decide when the handlers folder is loaded again, and switch to the new code.

The new generation boots beside the old one. If the folder has changed, no attempt starts until the registry
is updated: an attempt must run the code of the revision that it records.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Protocol

import msgspec

from busway.gateway.executors.port import Catalog
from busway.gateway.executors.python.host.generation import Generation
from busway.gateway.executors.python.host.link import ZygoteLost
from busway.gateway.executors.python.host.watching import Snapshot, Watched
from busway.gateway.executors.python.wire.protocol import Boot

logger = logging.getLogger("busway.workers")

_POLL = 0.25  # seconds; files must be unchanged for so long, otherwise half of a change would be loaded
_FIRST_DELAY, _LONGEST_DELAY = 0.05, 5.0  # seconds before the next zygote when one died soon
_STEADY = 10.0  # seconds after which a zygote did not die soon


class GenerationOwner(Protocol):
    """What the renewal needs from the supervisor."""

    @property
    def generation(self) -> Generation:
        """The generation that gets new attempts."""

    async def prepare(self, boot: Boot, watched: Watched) -> Generation:
        """Load the folder into a new generation, beside the running one."""

    async def boot(self, fresh: Generation) -> None:
        """Start the workers that will be needed, and wait until they are ready.

        Raises:
            OSError: a worker could not be started.
        """

    def hold(self) -> None:
        """Start no attempts. Attempts that have not started are returned."""

    def take_over(self, fresh: Generation) -> None:
        """Send all attempts to the new generation from now on."""


class Renewal:
    """Runs in the background from `start` to `stop`.

    `renewals` counts the loads. `error` is the reason of the last failure, None after a success.

    Args:
        owner: the supervisor.
        boot: what zygote and workers need; files to skip are added.
        on_catalog: receives the catalog of the folder when it has changed.
        reload: check four times a second whether files have changed.
    """

    def __init__(
        self,
        owner: GenerationOwner,
        boot: Boot,
        on_catalog: Callable[[Catalog], Awaitable[None]],
        *,
        reload: bool,
    ) -> None:
        self._owner, self._boot, self._on_catalog, self._reload = owner, boot, on_catalog, reload
        self._folder = Path(boot.folder)
        self._watched = Watched(self._folder)
        self._due = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._born = self._delay = 0.0
        self.renewals = 0
        self.error: str | None = None

    async def load(self) -> Generation:
        """Load the folder. A skipped file is tried again when it or the project has changed.

        Raises:
            ZygoteLost, OSError: the zygote could not be started.
        """
        before, self._watched = self._watched, Watched(self._folder)
        files, skip = self._watched.files, self._boot.skip
        same = before.snapshot().project == before.project
        skip = {file: why for file, why in skip.items() if same and files.get(file) == before.files.get(file)}
        self._boot = msgspec.structs.replace(self._boot, skip=skip)
        fresh = await self._owner.prepare(self._boot, self._watched)
        self._born = time.monotonic()
        return fresh

    def start(self) -> None:
        """Start watching."""
        loops = [self._keep, self._watch] if self._reload else [self._keep]
        self._loops = [asyncio.create_task(loop()) for loop in loops]

    def stop(self) -> None:
        """Stop watching and load nothing more."""
        for loop in self._loops:
            loop.cancel()

    def lost(self) -> None:
        """The generation can start no more workers: load another, after a delay if it did not live long."""
        steady = time.monotonic() - self._born > _STEADY
        self._delay = 0.0 if steady else min(_LONGEST_DELAY, max(_FIRST_DELAY, self._delay * 2))
        self._due.set()

    async def _keep(self) -> None:
        while True:
            await self._due.wait()
            await asyncio.sleep(self._delay)
            self._due.clear()
            try:
                fresh = await self.load()
                await self._owner.boot(fresh)
            except (ZygoteLost, OSError) as problem:
                logger.error("could not load the handler code: %s", problem)  # noqa: TRY400 - no traceback
                self.error = str(problem)
                self._delay = min(_LONGEST_DELAY, max(_FIRST_DELAY, self._delay * 2))
                self._due.set()
                continue
            self.renewals += 1
            self.error = None
            await self._take_over(fresh)

    async def _take_over(self, fresh: Generation) -> None:
        if fresh.files != self._owner.generation.files:
            logger.info("handler files have changed: reloaded")
            self._owner.hold()
            await self._register(fresh.files)
        self._owner.take_over(fresh)

    async def _register(self, catalog: Catalog) -> None:
        while True:
            try:
                await self._on_catalog(catalog)
            except Exception:
                logger.exception("could not register the reloaded handlers; retrying in 1 s")
                await asyncio.sleep(1)
            else:
                return

    async def _watch(self) -> None:
        seen: Snapshot | None = None
        while True:
            await asyncio.sleep(_POLL)
            watched = self._watched
            now = await asyncio.to_thread(watched.snapshot)
            if now == seen and watched is self._watched and watched.changed(now):
                self._due.set()
            seen = now
