"""What a running gateway does again and again."""

from __future__ import annotations

import asyncio
import logging

from busway.gateway.api import keys
from busway.gateway.api.stages import Stages
from busway.gateway.idle_memory import EVERY, IdleMemory
from busway.gateway.subscribers.lagging import LagReports

log = logging.getLogger("busway")


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
