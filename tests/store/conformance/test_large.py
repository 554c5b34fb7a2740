"""Large operations are stored whole, between small ones."""

from __future__ import annotations

import asyncio
from typing import Any

from busway.gateway.channel import LARGE
from busway.gateway.store.port.operations import Publish

from tests.store.databases import Database
from tests.store.kit import committing, event, publish, reading


class Waiter:
    def __init__(self) -> None:
        self.stored: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.done, self.set_result = self.stored.done, self.stored.set_result
        self.set_exception = self.stored.set_exception


def test_a_large_operation_is_stored_whole_between_small_ones(database: Database) -> None:
    async def store() -> None:
        async with committing(database) as commits, reading(database) as reader:
            waiters = []
            for n in range(5):
                large = [event(f"{n}-{m}", data=b'"%b"' % (b"x" * (LARGE // 20))) for m in range(30)]
                for events in ([event(f"before {n}")], large):
                    waiters.append(Waiter())
                    encoded = [
                        (len(part), commits.encode(part)) for part in (events[:20], events[20:]) if part
                    ]
                    commits.submit(Publish(events=events), waiters[-1], encoded)
            replies = [await waiter.stored for waiter in waiters]
            assert [one.seq for reply in replies for one in reply] == list(range(1, 156))
            await commits.publish(publish(event("after")))
            found = await reader.event(31)
            assert found is not None
            assert (found.id, len(found.data or b"")) == ("0-29", LARGE // 20 + 2)

    asyncio.run(store())
