"""Large operations are stored whole, between small ones."""

from __future__ import annotations

import asyncio
from typing import Any

from busway.gateway.channel import LARGE
from busway.gateway.store.core.publishing import SLICE
from busway.gateway.store.group.frames import LARGE_OPERATION
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


def test_a_large_operation_finds_its_duplicates_and_those_before_it(database: Database) -> None:
    """Its events are read in slices, and a duplicate may be in any other one."""
    count = 3 * SLICE
    data = b'"%b"' % (b"x" * (2 * LARGE_OPERATION // count))

    async def store() -> None:
        async with committing(database) as commits, reading(database) as reader:
            await commits.publish(publish(event("old", handlers=(1, 2))))
            ids = [f"new {n % (count - 5)}" for n in range(count)]
            ids[SLICE + 3] = "old"
            events = [event(id_, handlers=(1, 2), data=data) for id_ in ids]
            stored = await commits.publish(publish(*events))
            seqs: dict[str, int] = {"old": 1}
            for id_, one in zip(ids, stored, strict=True):
                assert one.duplicate is (id_ in seqs)
                assert one.seq == seqs.setdefault(id_, one.seq)
            assert max(seqs.values()) == len(seqs)
            assert (await reader.counts())[1] == {"available": len(seqs)}
            assert (await reader.counts())[2] == {"available": len(seqs)}

    asyncio.run(store())
