"""The write-ahead log while another program reads the database."""

import asyncio
import sqlite3
from contextlib import closing

import pytest
from busway.gateway.store.sqlite.checkpoints import (
    BLOCKED_AFTER,
    IDLE_BATCHES,
    RETRY_AFTER,
    TRUNCATE_OVER,
    Checkpoints,
)

from tests.store.kit import committing, event, publish, until


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


def reading(path):
    """Open a read transaction, as a foreign program does."""
    foreign = sqlite3.connect(path, isolation_level=None)
    foreign.execute("BEGIN")
    foreign.execute("SELECT count(*) FROM events").fetchone()
    return closing(foreign)


def log_size(path):
    return path.with_name(path.name + "-wal").stat().st_size


def test_a_checkpoint_that_a_reader_keeps_from_completing_is_repeated_in_pauses(store, path):
    clock = Clock()
    checkpoints = Checkpoints(store.batches.connection, path, 1000, clock)
    checkpoints.idle()
    assert not checkpoints.due
    with reading(path):
        store.write(publish(event()))
        checkpoints.idle()
        assert checkpoints.due
        assert not checkpoints.blocked
        clock.now += BLOCKED_AFTER
        checkpoints.idle()
        assert checkpoints.blocked
    assert checkpoints.due
    checkpoints.idle()
    assert not checkpoints.due
    assert not checkpoints.blocked


def test_it_is_repeated_once_a_second_between_batches(store, path):
    clock = Clock()
    checkpoints = Checkpoints(store.batches.connection, path, 1000, clock)
    with reading(path):
        store.write(publish(event()))
        checkpoints.idle()
    checkpoints.written()
    assert checkpoints.due
    clock.now += RETRY_AFTER
    checkpoints.written()
    assert not checkpoints.due


def test_a_long_log_is_truncated_when_the_reader_has_left(store, path, monkeypatch):
    monkeypatch.setattr("busway.gateway.store.sqlite.checkpoints.TRUNCATE_OVER", 1 << 20)
    assert TRUNCATE_OVER > 1 << 20
    checkpoints = Checkpoints(store.batches.connection, path, 1000)
    with reading(path):
        for _ in range(4):
            store.write(publish(event(data=b'"%s"' % (b"x" * 500_000))))
            checkpoints.idle()
        assert log_size(path) > 1 << 20
    checkpoints.idle()
    assert log_size(path) == 0
    assert not checkpoints.due


@pytest.mark.long
def test_the_gateway_says_while_a_reader_keeps_the_log_from_being_emptied(database, path, caplog):
    async def main():
        async with committing(database) as commits:
            with reading(path):
                for _ in range(IDLE_BATCHES):
                    await commits.publish(publish(event()))
                await until(lambda: commits.log_blocked)
                assert commits.healthy
                await commits.publish(publish(event()))
            await until(lambda: not commits.log_blocked)
            assert sum("another program" in line for line in caplog.messages) == 1

    asyncio.run(main())
