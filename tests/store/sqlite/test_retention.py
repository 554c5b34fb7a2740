"""Retention: the file and its write-ahead log do not grow while old rows are deleted."""

import asyncio

from busway.gateway.dispatch import retention
from busway.gateway.dispatch.retention import Retention

from tests.store.conformance.test_retention import KEPT, LATER
from tests.store.kit import committing, event, publish


def test_retention_keeps_file_and_log_from_growing(database, path, monkeypatch):
    monkeypatch.setattr(retention, "PAUSE", 0)
    monkeypatch.setattr(retention, "SHARE", 0)

    async def scene():
        async with committing(database) as commits:
            reader = database.reader()
            for _ in range(20):
                await commits.publish(publish(*(event(handlers=(), data=b"1" * 500) for _ in range(1_000))))
            before = path.stat().st_size
            stage = Retention(commits, reader, KEPT, lambda: LATER)
            await stage.sweep()
            assert (await reader.old_roots(0, LATER, 10)).roots == []
            assert path.stat().st_size <= max(before, 20 << 20)
            assert path.with_name("busway.db-wal").stat().st_size <= 20 << 20
            full = path.stat().st_size
            for _ in range(10):
                await commits.publish(publish(*(event(handlers=(), data=b"1" * 500) for _ in range(1_000))))
            reader.close()
        assert path.stat().st_size <= full + (1 << 20)  # the space is reused

    asyncio.run(scene())
