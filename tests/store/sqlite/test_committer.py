"""The committer of a file: its checkpoints under load, the files it leaves, and what it imports."""

import asyncio
import subprocess
import sys

import pytest
from busway.domain.run import RunState
from busway.gateway.store.core.transaction import Replaced
from busway.gateway.store.core.writer import Writer
from busway.gateway.store.port.operations import Cancel, Lead, StoredEvent
from busway.gateway.store.sqlite.transaction import SQLiteTransaction

from tests.store.kit import NOW, committing, event, mark, publish, settle


def test_the_write_ahead_log_is_checkpointed_under_load(database, path):
    async def main():
        async with committing(database) as commits:
            for _ in range(60):
                await commits.publish(publish(event(data=b'"%s"' % (b"x" * 1_000_000))))
            assert path.with_name("busway.db-wal").stat().st_size < 30_000_000
            assert path.stat().st_size > 30_000_000

    asyncio.run(main())


def test_closing_leaves_one_file(database, path):
    async def main():
        async with committing(database) as commits:
            await commits.publish(publish(event()))
            assert len(list(path.parent.glob("busway.db*"))) > 1

    asyncio.run(main())
    assert [p.name for p in path.parent.glob("busway.db*")] == ["busway.db"]


def test_a_committer_without_its_gateway_writes_nothing_after_another_one_claimed(store):
    with store.batches.engine.connect() as first, store.batches.engine.connect() as second:
        old, new = SQLiteTransaction(first, 1), SQLiteTransaction(second, 2)
        old.claim("n")
        Writer(old).write([publish(event())])
        new.claim("n")
        with pytest.raises(Replaced):
            Writer(old).write([publish(event())])
        assert Writer(new).write([publish(event())])[1] == [[StoredEvent(2, 2)]]


def test_each_attempt_names_the_gateway_that_had_it(store):
    with store.batches.engine.connect() as first, store.batches.engine.connect() as second:
        old, new = SQLiteTransaction(first, 1), SQLiteTransaction(second, 2)
        old.claim("old")
        Writer(old).write([publish(*[event() for _ in range(4)]), settle(1), mark(2), mark(3)])
        Writer(old).write([settle(4, state=RunState.RETRYABLE), Cancel(runs=[3], now=NOW)])
        new.claim("new")
        assert Writer(new).write([Lead(now=NOW, max_losses=10)])[1] == [[2]]
        Writer(new).write([mark(2, 2), settle(4, 2)])
        new.claim("new")
    names = [[attempt.node for attempt in store.read("run", run)[1]] for run in (1, 2, 3, 4)]
    assert names == [["old"], ["old", "new"], ["old"], ["old", "new"]]
    assert store.batches.connection.exec_driver_sql("SELECT count(*) FROM node_names").scalar() == 2


def test_the_committer_imports_no_web_framework(path):
    code = (
        "import sys, busway.gateway.store.committer\n"
        "unwanted = {'fastapi', 'starlette', 'uvicorn', 'pydantic', 'httpx', 'alembic'}\n"
        "sys.exit(bool(unwanted & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
