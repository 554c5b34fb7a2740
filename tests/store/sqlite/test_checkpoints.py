"""The write-ahead log under load, and while another program reads the database."""

import asyncio
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing, contextmanager

import pytest
from busway.gateway.store.sqlite import database as sqlite
from busway.gateway.store.sqlite.checkpoints import (
    BLOCKED_AFTER,
    IDLE_BATCHES,
    RETRY_AFTER,
    TRUNCATE_OVER,
    Checkpoints,
)
from busway.gateway.store.sqlite.files import DatabaseFiles

from tests.store.kit import committing, event, publish, until

PATIENCE = 120.0  # seconds


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


@contextmanager
def checkpointing(store, path, timer=time.monotonic):
    """Yield the checkpoints of a connection that writes, the files, and the connection in the background."""
    engine, files = sqlite.engine(path, create=False), DatabaseFiles(path, None)
    with engine.connect() as background, engine.connect() as snapshot:
        [root] = background.exec_driver_sql("SELECT rootpage FROM sqlite_master WHERE name = 'head'").one()
        files.opened(root, 4096)
        checkpoints = Checkpoints(store.batches.connection, background, snapshot, path, 1000, files, timer)
        yield checkpoints, files, background.connection.dbapi_connection
        checkpoints.close()
    files.closed()
    engine.dispose()


def log_size(path):
    return path.with_name(path.name + "-wal").stat().st_size


def test_a_checkpoint_that_a_reader_keeps_from_completing_is_repeated_in_pauses(store, path):
    clock = Clock()
    with checkpointing(store, path, clock) as (checkpoints, *_):
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


def test_it_is_repeated_between_batches(store, path):
    clock = Clock()
    with checkpointing(store, path, clock) as (checkpoints, *_):
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
    with checkpointing(store, path) as (checkpoints, *_):
        with reading(path):
            for _ in range(4):
                store.write(publish(event(data=b'"%s"' % (b"x" * 500_000))))
                checkpoints.idle()
            assert log_size(path) > 1 << 20
        checkpoints.idle()
        assert log_size(path) == 0
        assert not checkpoints.due


def test_under_load_the_log_is_checkpointed_in_the_background_and_begins_again(store, path, monkeypatch):
    monkeypatch.setattr("busway.gateway.store.sqlite.checkpoints.BEGIN_OVER", 16)
    monkeypatch.setattr("busway.gateway.store.sqlite.checkpoints.COMPLETE_OVER", 64)
    stored, salts = 0, set()
    deadline = time.monotonic() + PATIENCE
    with checkpointing(store, path) as (checkpoints, files, _):
        while len(salts) < 4:
            assert time.monotonic() < deadline, "the log grows and grows"
            store.write(publish(event(data=b'"%s"' % (b"x" * 20_000))))
            stored += 1
            checkpoints.written()
            salts.add(files.log.salt)
        checkpoints.finish()
        assert not files.overwritten
        assert not checkpoints.failed
        checkpoints.idle()
        assert files.log.lacking == 0
    with closing(sqlite3.connect(f"file:{path}?immutable=1", uri=True)) as file:  # without the log
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert file.execute("SELECT count(*) FROM events").fetchone() == (stored,)


def test_batches_are_written_while_a_checkpoint_runs(store, path, monkeypatch):
    monkeypatch.setattr("busway.gateway.store.sqlite.checkpoints.BEGIN_OVER", 16)
    begun, ended = threading.Event(), threading.Event()

    def running():
        begun.set()
        assert ended.wait(PATIENCE)

    with checkpointing(store, path) as (checkpoints, files, background):
        background.set_progress_handler(running, 1)
        for number in range(20):
            store.write(publish(event(data=b'"%s"' % (b"x" * 20_000))))
            checkpoints.written()
            assert number < 5 or begun.wait(PATIENCE)
            assert files.log.done == 0
        log = files.log
        assert log.frames > 100
        ended.set()
        checkpoints.finish()
        assert 16 < files.log.done < log.frames  # what was there when it began
        assert files.log.salt == log.salt
        assert not files.overwritten


def test_the_log_does_not_begin_again_while_a_checkpoint_runs(store, path, monkeypatch):
    """Not even if another program has written all of it to the database.

    SQLite before 3.51.3 could lose commits then.
    """
    monkeypatch.setattr("busway.gateway.store.sqlite.checkpoints.BEGIN_OVER", 16)
    begun, ended = threading.Event(), threading.Event()

    def running():
        begun.set()
        assert ended.wait(PATIENCE)

    with (
        checkpointing(store, path) as (checkpoints, files, background),
        closing(sqlite3.connect(path)) as other,
    ):
        background.set_progress_handler(running, 1)
        while files.log.lacking <= 16:
            store.write(publish(event(data=b'"%s"' % (b"x" * 20_000))))
        checkpoints.written()
        assert begun.wait(PATIENCE)
        log = files.log
        other.execute("PRAGMA wal_checkpoint(PASSIVE)")
        assert files.log.lacking == 0
        store.write(publish(event()))
        assert files.log.frames > log.frames
        assert files.log.salt == log.salt
        ended.set()
        checkpoints.finish()
        assert not files.overwritten
        checkpoints.idle()
        store.write(publish(event()))
        assert files.log.salt != log.salt
        other.execute("PRAGMA wal_checkpoint(PASSIVE)")
        checkpoints.written()  # there is nothing to do
        assert not files.overwritten


HOLDING = """
import fcntl, sys
with open(sys.argv[1], "r+b") as index:
    fcntl.lockf(index, fcntl.LOCK_EX, 1, 121)
    print(flush=True)
    sys.stdin.readline()
"""  # byte 121 of the log's index is the lock of checkpoints


def test_while_another_program_checkpoints_it_is_repeated(store, path):
    clock = Clock()
    with checkpointing(store, path, clock) as (checkpoints, files, _):
        store.write(publish(event()))
        command = [sys.executable, "-c", HOLDING, f"{path}-shm"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            other.stdout.readline()
            checkpoints.idle()
            assert files.log.lacking > 0
            assert checkpoints.due
            other.communicate(b"\n")
        clock.now += RETRY_AFTER
        checkpoints.written()
        assert files.log.lacking == 0
        assert not checkpoints.due


def test_without_another_thread_it_runs_between_two_batches(store, path, monkeypatch):
    monkeypatch.setattr("busway.gateway.store.sqlite.checkpoints.BEGIN_OVER", 16)

    def start(thread):
        raise RuntimeError("can't start new thread")

    with checkpointing(store, path) as (checkpoints, files, _):
        monkeypatch.setattr(threading.Thread, "start", start)
        for _ in range(10):
            store.write(publish(event(data=b'"%s"' % (b"x" * 20_000))))
            checkpoints.written()
            assert files.log.lacking <= 16
        assert not files.overwritten
        assert not checkpoints.failed


def test_what_a_reader_has_kept_in_the_log_is_checkpointed_in_the_background(store, path, monkeypatch):
    """Even one that reads for a moment, during which much was written."""
    monkeypatch.setattr("busway.gateway.store.sqlite.checkpoints.BEGIN_OVER", 16)
    clock, steps = Clock(), []
    with checkpointing(store, path, clock) as (checkpoints, files, background):
        with reading(path):
            for _ in range(30):
                store.write(publish(event(data=b'"%s"' % (b"x" * 20_000))))
                checkpoints.written()
                checkpoints.finish()
            assert checkpoints.due
            assert files.log.lacking > 100
            clock.now += BLOCKED_AFTER
            checkpoints.written()
            checkpoints.finish()
            assert checkpoints.blocked
        background.set_progress_handler(lambda: steps.append(1), 1)
        clock.now += RETRY_AFTER
        checkpoints.written()
        checkpoints.finish()
        assert steps
        assert files.log.lacking == 0
        assert not checkpoints.blocked


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
