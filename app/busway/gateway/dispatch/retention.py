"""Retention: removes finished work that is older than the operator keeps it, in small steps.

Results are removed by their own age, from the start of their log, so that the log never has a gap. Events
are removed a tree at a time: a root event and everything that came from it. The tree stays whole, with its
runs and attempts, until every run has ended, every event is old and every result is removed. One unfinished
run keeps its whole tree. A tree too large for one step is removed from its leaves to its root, so that the
rest stays connected. A replay is removed after its runs, which go with their events.

Each step is one short operation of the committer, followed by a pause three times as long, in which
publishing and outcomes get the store.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from busway.domain.times import SECOND
from busway.gateway.errors import BuswayError
from busway.gateway.store.port.audit import PruneAudit
from busway.gateway.store.port.commits import Commits
from busway.gateway.store.port.once import IDEMPOTENT_FOR
from busway.gateway.store.port.operations import Operation, PruneEvents, PruneResults
from busway.gateway.store.port.reader import Reader
from busway.gateway.store.port.retention import PruneKeys, PruneReplays

log = logging.getLogger("busway.retention")

STEP_EVENTS = 250
STEP_RESULTS = 500
STEP_KEYS = 500
STEP_REPLAYS = 100
STEP_BYTES = 4 << 20
LOOK_EVENTS = 500  # events in one read
PAUSE = 0.01  # minimum seconds between steps
SHARE = 3  # length of a pause as a multiple of the step before it
EVERY = 60.0  # maximum seconds between sweeps


class Retention:
    """Sweeps the store repeatedly until `stop`.

    Args:
        commits: removes.
        reader: finds what can be removed.
        seconds: how long finished work is kept.
        clock: microseconds since 1970.
        audit_seconds: how long entries of the audit log are kept. None: for ever.
    """

    def __init__(
        self,
        commits: Commits,
        reader: Reader,
        seconds: int,
        clock: Callable[[], int],
        audit_seconds: int | None = None,
    ) -> None:
        self._commits, self._reader, self._clock = commits, reader, clock
        self._kept = seconds * SECOND
        self._audit_kept = None if audit_seconds is None else audit_seconds * SECOND
        self._every = min(EVERY, max(1.0, seconds / 10))
        self._sweeping: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start sweeping in the background."""
        self._sweeping = asyncio.get_running_loop().create_task(self._go_on())

    def stop(self) -> None:
        """Stop sweeping. A step that the committer already has is still written."""
        if self._sweeping is not None:
            self._sweeping.cancel()

    async def sweep(self) -> None:
        """Remove everything that is too old now.

        Raises:
            Unavailable: the store rejects writes or cannot be read.
        """
        before = self._clock() - self._kept
        await self._prune_results(before)
        await self._prune_events(before)
        await self._prune_replays(before)
        await self._prune_keys(self._clock() - IDEMPOTENT_FOR)
        if self._audit_kept is not None:
            await self._prune_audit(self._clock() - self._audit_kept)

    async def _go_on(self) -> None:
        while True:
            began = time.monotonic()
            try:
                await self.sweep()
            except BuswayError as problem:
                log.warning("retention is paused, it retries: %s", problem.detail)
            except Exception:
                log.exception("retention failed, it retries")
            await asyncio.sleep(max(self._every, SHARE * (time.monotonic() - began)))

    async def _prune_results(self, before: int) -> None:
        while (until := await self._reader.old_results(before, STEP_RESULTS, STEP_BYTES)) is not None:
            await self._step(PruneResults(until=until))

    async def _prune_replays(self, before: int) -> None:
        while await self._reader.old_replays(before):
            await self._step(PruneReplays(before=before, limit=STEP_REPLAYS))

    async def _prune_keys(self, before: int) -> None:
        while await self._reader.old_keys(before):
            await self._step(PruneKeys(before=before, limit=STEP_KEYS))

    async def _prune_audit(self, before: int) -> None:
        while await self._reader.old_audit(before):
            await self._step(PruneAudit(before=before, limit=STEP_KEYS))

    async def _prune_events(self, before: int) -> None:
        step = _Step()
        after: int | None = 0
        while after is not None:
            found = await self._reader.old_roots(after, before, LOOK_EVENTS)
            for tree in await self._finished(found.roots, before):
                for part in _parts(tree):
                    if not step.take(part):
                        await self._step(PruneEvents(trees=step.give()))
                        step.take(part)
            after = found.next
        if step.trees:
            await self._step(PruneEvents(trees=step.give()))

    async def _finished(self, roots: list[tuple[int, int]], before: int) -> list[Tree]:
        """Return the trees of those roots that can be removed, each event with its bytes, parents first."""
        trees = {root: {root: size} for root, size in roots}
        layer = {root: root for root in trees}
        while layer:
            children: dict[int, int] = {}
            events = [seq for seq in layer if layer[seq] in trees]
            for start in range(0, len(events), LOOK_EVENTS):
                found = await self._reader.layer(events[start : start + LOOK_EVENTS], before)
                for seq in found.kept:
                    trees.pop(layer[seq], None)
                for parent, seq, size in found.children:
                    root = layer[parent]
                    if root in trees:
                        trees[root][seq] = size
                        children[seq] = root
            layer = children
        return list(trees.values())

    async def _step(self, operation: Operation) -> None:
        began = time.monotonic()
        await self._commits.change(operation)
        await asyncio.sleep(max(PAUSE, SHARE * (time.monotonic() - began)))


Tree = dict[int, int]
"""The events of a tree and the bytes of each, in any order."""


class _Step:
    """Trees, and parts of large trees, that are removed together."""

    def __init__(self) -> None:
        self.trees: list[list[int]] = []
        self._events = self._bytes = 0

    def take(self, part: Tree) -> bool:
        """Add a part. Return False, without adding it, if it does not fit beside the others."""
        size = sum(part.values())
        full = self._events + len(part) > STEP_EVENTS or self._bytes + size > STEP_BYTES
        if full and self.trees:
            return False
        self.trees.append(list(part))
        self._events += len(part)
        self._bytes += size
        return True

    def give(self) -> list[list[int]]:
        """Return the parts and start again with none."""
        trees, self.trees = self.trees, []
        self._events = self._bytes = 0
        return trees


def _parts(tree: Tree) -> list[Tree]:
    """Split a tree into parts that fit a step. Children have higher numbers, so the highest go first."""
    parts: list[Tree] = [{}]
    size = 0
    for seq in sorted(tree, reverse=True):
        if parts[-1] and (len(parts[-1]) == STEP_EVENTS or size + tree[seq] > STEP_BYTES):
            parts.append({})
            size = 0
        parts[-1][seq] = tree[seq]
        size += tree[seq]
    return parts
