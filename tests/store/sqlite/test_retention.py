"""Retention: the file and its write-ahead log do not grow while old rows are deleted."""

import asyncio
import sqlite3
from contextlib import closing

from busway.gateway.dispatch import retention
from busway.gateway.dispatch.retention import Retention

from tests.store.conformance.test_retention import KEPT, LATER
from tests.store.kit import committing, event, publish


def size(path):
    """Bytes of the database, with those that only the log has."""
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute(
            "SELECT page_count * page_size FROM pragma_page_count, pragma_page_size"
        ).fetchone()[0]


def test_retention_keeps_file_and_log_from_growing(database, path, monkeypatch):
    monkeypatch.setattr(retention, "PAUSE", 0)
    monkeypatch.setattr(retention, "SHARE", 0)

    async def scene():
        async with committing(database) as commits:
            reader = database.reader()
            for _ in range(20):
                await commits.publish(publish(*(event(handlers=(), data=b"1" * 4_000) for _ in range(1_000))))
            before = size(path)
            stage = Retention(commits, reader, KEPT, lambda: LATER)
            await stage.sweep()
            assert (await reader.old_roots(0, LATER, 10)).roots == []
            assert size(path) <= before + (1 << 20)
            # All that was written is 170 MiB. How long the log is depends on how busy the disk is.
            assert path.with_name("busway.db-wal").stat().st_size <= 80 << 20
            full = size(path)
            for _ in range(10):
                await commits.publish(publish(*(event(handlers=(), data=b"1" * 4_000) for _ in range(1_000))))
            reader.close()
        assert size(path) <= full + (1 << 20)  # the space is reused

    asyncio.run(scene())
