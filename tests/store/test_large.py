"""Large operations on their way to the committer: encoded in parts, sent in parts, the same in the store."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from busway.gateway.channel import LARGE
from busway.gateway.store.group import frames
from busway.gateway.store.group.commits import GroupCommits
from busway.gateway.store.port.operations import Publish
from busway.gateway.store.sqlite import database as sqlite
from busway.gateway.store.sqlite.reader import SQLiteReader

from .kit import event, publish


def test_parts_make_the_same_operation_and_the_same_batch() -> None:
    events = [event(str(n), data=b"1") for n in range(300)]
    for sizes in ([300], [15, 16, 269], [1] * 300):
        slices, start = [], 0
        for size in sizes:
            slices.append((size, frames.encode(events[start : start + size])))
            start += size
        body = frames.encode_publish(slices)
        batch = frames.RawBatch(7, [msgspec.Raw(body)] * 20)
        whole = frames.decode_batch(b"".join(frames.batch_parts(batch)))
        assert whole == frames.decode_batch(frames.encode(batch))
        assert whole.operations[0] == Publish(events=events)


class Waiter:
    def __init__(self) -> None:
        self.stored: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self.done, self.set_result = self.stored.done, self.stored.set_result
        self.set_exception = self.stored.set_exception


def test_a_large_operation_is_stored_whole_between_small_ones(tmp_path: Any) -> None:
    async def store() -> None:
        sqlite.migrate(tmp_path / "busway.db")
        commits = GroupCommits(tmp_path / "busway.db")
        await commits.start()
        reader = SQLiteReader(tmp_path / "busway.db")
        try:
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
        finally:
            await commits.close()
            reader.close()

    asyncio.run(store())
