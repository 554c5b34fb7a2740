"""Decide when the handlers folder is loaded again: its files changed, or its zygote can start no workers."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import msgspec

from busway.gateway.executors.python.host.watching import Snapshot, Watched
from busway.gateway.executors.python.wire.protocol import Boot

_POLL = 0.25  # seconds; files must be unchanged for so long, otherwise half of a change would be loaded
_FIRST_DELAY, _LONGEST_DELAY = 0.05, 5.0  # seconds before the next zygote when one died soon
_STEADY = 10.0  # seconds after which a zygote did not die soon


class Renewal:
    """Decides when the folder is loaded again, and with which settings. The supervisor loads it.

    Args:
        boot: what zygote and workers need; files to skip are added.
        reload: the event to set when the folder must be loaded again.

    Attributes:
        due: the folder must be loaded again, even if its zygote is alive.
        delay: seconds to wait before the next load.
        renewals: number of loads after the first one.
        error: the reason of the last failure, None after a success.
    """

    def __init__(self, boot: Boot, reload: asyncio.Event) -> None:
        self._boot, self._reload = boot, reload
        self._folder = Path(os.fsdecode(boot.folder))
        self._watched = Watched(self._folder)
        self._born = 0.0
        self.due = False
        self.delay = 0.0
        self.renewals = 0
        self.error: str | None = None

    def begin(self) -> tuple[Boot, Watched]:
        """Return the settings of the next load. A skipped file is tried again if anything has changed."""
        before, self._watched = self._watched, Watched(self._folder)
        files, skip = self._watched.files, self._boot.skip
        same = before.snapshot().project == before.project
        skip = {file: why for file, why in skip.items() if same and files.get(file) == before.files.get(file)}
        self._boot = msgspec.structs.replace(self._boot, skip=skip)
        self.due = False
        return self._boot, self._watched

    def loaded(self) -> None:
        """Record that a zygote has loaded the folder."""
        self._born = time.monotonic()

    def lost(self) -> None:
        """Record that no worker can be started. The next load is delayed if the zygote did not live long."""
        steady = time.monotonic() - self._born > _STEADY
        self.delay = 0.0 if steady else min(_LONGEST_DELAY, max(_FIRST_DELAY, self.delay * 2))

    def failed(self, why: str) -> None:
        """Record that the folder could not be loaded. It is tried again, after longer delays."""
        self.error = why
        self.delay = min(_LONGEST_DELAY, max(_FIRST_DELAY, self.delay * 2))
        self._request()

    def succeeded(self) -> None:
        """Record that the folder was loaded and workers have booted."""
        self.renewals += 1
        self.error = None

    async def watch(self) -> None:
        """Check four times a second whether files have changed. Never returns."""
        seen: Snapshot | None = None
        while True:
            await asyncio.sleep(_POLL)
            watched = self._watched
            try:
                now = await asyncio.to_thread(watched.snapshot)
            except (OSError, RuntimeError):  # no descriptors or no threads: what it saw would be wrong
                continue
            if now == seen and watched is self._watched and watched.changed(now):
                self._request()
            seen = now

    def _request(self) -> None:
        self.due = True
        self._reload.set()
