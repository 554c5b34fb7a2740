"""What a running gateway does again and again."""

from __future__ import annotations

import asyncio
import logging

from busway.gateway.access.keysfile import KeysFile
from busway.gateway.api import keys
from busway.gateway.api.stages import Stages
from busway.gateway.idle_memory import EVERY, IdleMemory
from busway.gateway.subscribers.lagging import LagReports

log = logging.getLogger("busway")

KEYS_EVERY = 2.0  # seconds between looks at the keys file


async def follow_keys_file(stages: Stages, file: KeysFile) -> None:
    """Read the keys file when it has changed. A file that cannot be used changes nothing."""
    while True:
        await asyncio.sleep(KEYS_EVERY)
        try:
            if not await asyncio.to_thread(file.read):
                continue
            keys.take_declared(stages, file)
            if file.error is None:
                log.info("the keys file %s was read again: it declares %d keys", file.path, len(file.keys))
            else:
                text = "the keys file %s cannot be used, so the keys that it had before stay valid: %s"
                log.error(text, file.path, file.error)
        except Exception:
            log.exception("cannot read the keys file again, retrying")


async def keep_up(stages: Stages) -> None:
    """Load keys that the command line created or revoked, and cancel leftover runs of deleted handlers.

    Resume handlers whose breaker paused them long enough ago.

    Record when keys were used, sample rates, report subscribers that lag, and give free memory back when
    work has ended.
    """
    memory, use, nodes = IdleMemory(), keys.KeyUse(stages), stages.nodes
    lag = LagReports(stages.hub, stages.registry, stages.commits, nodes.clock, nodes.name)
    while True:
        await asyncio.sleep(EVERY)
        try:
            memory.look()
            lag.look()
            await keys.load_keys(stages)
            use.look()
            await stages.rates.look()
            if nodes.leads:
                await stages.changes.resume_due()
                await stages.changes.cancel_left_over(await stages.reader.counts())
        except Exception:
            log.exception("cannot reload keys and deleted handlers from the store, retrying")
