"""When the handlers folder is loaded anew, and how the new code takes over from the old.

The new generation boots beside the old one. Then, if the folder holds something else than before,
nothing starts until the registry knows: an attempt runs the code of the revision that it records.
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
from busway.gateway.executors.python.host.watching import Look, Watched
from busway.gateway.executors.python.wire.protocol import Boot

logger = logging.getLogger("busway.workers")

_POLL = 0.25  # seconds; a change must have stood for one of them, or half of it would be loaded
_FIRST_DELAY, _LONGEST_DELAY, _STEADY = 0.05, 5.0, 10.0  # seconds between zygotes that die; so long is well


class House(Protocol):
    """The supervisor as its renewal sees it."""

    @property
    def generation(self) -> Generation:
        """The generation that takes new attempts."""

    async def prepare(self, boot: Boot, watched: Watched) -> Generation:
        """Load the folder anew, beside what runs."""

    async def boot(self, fresh: Generation) -> None:
        """Start the workers that will be wanted, and wait until they are ready.

        Raises:
            OSError: one could not be started.
        """

    def hold(self) -> None:
        """Let nothing start; what has not started goes back."""

    def succeed(self, fresh: Generation) -> None:
        """Let the fresh generation take all attempts from now on."""


class Renewal:
    """Runs in the background from `start` to `stop`.

    `renewals` counts them, `error` is why the last one failed, None if it did not.

    Args:
        house: the supervisor.
        boot: what zygote and workers must know; files to set aside are added.
        on_catalog: told what the folder holds when that has changed.
        reload: look every quarter of a second whether files have changed.
    """

    def __init__(
        self, house: House, boot: Boot, on_catalog: Callable[[Catalog], Awaitable[None]], *, reload: bool
    ) -> None:
        self._house, self._boot, self._on_catalog, self._reload = house, boot, on_catalog, reload
        self._folder = Path(boot.folder)
        self._watched = Watched(self._folder)
        self._due = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._born = self._delay = 0.0
        self.renewals = 0
        self.error: str | None = None

    async def load(self) -> Generation:
        """Load the folder; a file that was set aside is tried again when it or the project has changed.

        Raises:
            ZygoteLost, OSError: the zygote could not be started.
        """
        before, self._watched = self._watched, Watched(self._folder)
        files, skip = self._watched.files, self._boot.skip
        same = before.look().project == before.project
        skip = {file: why for file, why in skip.items() if same and files.get(file) == before.files.get(file)}
        self._boot = msgspec.structs.replace(self._boot, skip=skip)
        fresh = await self._house.prepare(self._boot, self._watched)
        self._born = time.monotonic()
        return fresh

    def start(self) -> None:
        """Begin to watch."""
        loops = [self._keep, self._watch] if self._reload else [self._keep]
        self._loops = [asyncio.create_task(loop()) for loop in loops]

    def stop(self) -> None:
        """Load nothing more."""
        for loop in self._loops:
            loop.cancel()

    def lost(self) -> None:
        """The generation can start no workers: load another, later if this one did not live long."""
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
                await self._house.boot(fresh)
            except (ZygoteLost, OSError) as problem:
                logger.error("handler code could not be loaded: %s", problem)  # noqa: TRY400 - the reason is all there is
                self.error = str(problem)
                self._delay = min(_LONGEST_DELAY, max(_FIRST_DELAY, self._delay * 2))
                self._due.set()
                continue
            self.renewals += 1
            self.error = None
            await self._take_over(fresh)

    async def _take_over(self, fresh: Generation) -> None:
        if fresh.files != self._house.generation.files:
            logger.info("handler files have changed: loaded again")
            self._house.hold()
            await self._tell(fresh.files)
        self._house.succeed(fresh)

    async def _tell(self, catalog: Catalog) -> None:
        while True:
            try:
                await self._on_catalog(catalog)
            except Exception:
                logger.exception("what the handler files hold now could not be told; trying again")
                await asyncio.sleep(1)
            else:
                return

    async def _watch(self) -> None:
        seen: Look | None = None
        while True:
            await asyncio.sleep(_POLL)
            watched = self._watched
            now = await asyncio.to_thread(watched.look)
            if now == seen and watched is self._watched and watched.changed(now):
                self._due.set()
            seen = now
