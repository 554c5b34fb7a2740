"""Files of the database that go away while a committer has them open, and come back."""

import asyncio
import logging
import os
import shutil
import signal
import sqlite3
from contextlib import closing

import pytest
from busway.gateway.errors import Unavailable
from busway.gateway.store.group.process import open_committer

from tests.store.databases import SQLite
from tests.store.kit import committing, event, publish, run_of, settle, settling, until

pytestmark = pytest.mark.fault


@pytest.fixture
def database(tmp_path, shared_folder):
    (tmp_path / "data").mkdir()
    return SQLite(tmp_path / "data", shared_folder)


@pytest.fixture
def path(database):
    return database.path


class Gone:
    """Moves a file away, and back."""

    def __init__(self, path, ending):
        self.there = path.with_name(path.name + ending)
        self.name, self.elsewhere = self.there.name, self.there.with_name("elsewhere")

    def go(self):
        self.there.rename(self.elsewhere)

    def come_back(self):
        self.elsewhere.replace(self.there)


class Replaced(Gone):
    """Another file with the same content is in its place."""

    def go(self):
        super().go()
        shutil.copy(self.elsewhere, self.there)


class Folder(Gone):
    def __init__(self, path, ending):
        self.there, self.elsewhere = path.parent, path.parent.with_name("elsewhere")
        self.name = path.name


class Linked(Gone):
    """A symbolic link to another file is in its place."""

    def go(self):
        super().go()
        self.there.symlink_to(os.devnull)


CASES = [
    (kind, ending)
    for kind, endings in (
        (Gone, ("", "-wal", "-shm")),
        (Replaced, ("", "-wal")),
        (Folder, ("",)),
        (Linked, ("",)),
    )
    for ending in endings
]


def said(caplog):
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def events_in(path):
    with closing(sqlite3.connect(path)) as connection:
        return [id_ for (id_,) in connection.execute("SELECT id FROM events ORDER BY seq")]


@pytest.mark.parametrize(("kind", "ending"), CASES)
def test_publishing_is_refused_until_the_same_file_is_back(database, path, kind, ending, caplog):
    async def main():
        async with committing(database) as commits:
            new = event("first")
            [stored] = await commits.publish(publish(new))
            case = kind(path, ending)
            case.go()
            await until(lambda: commits.obstacle)
            assert case.name in commits.obstacle
            for _ in range(2):
                with pytest.raises(Unavailable, match=case.name):
                    commits.publish(publish(event("refused")))
            outcome = settling(commits, settle(1), run_of(1, new, stored.seq))
            await commits.drained()
            assert not outcome.done()
            [line] = said(caplog)
            assert case.name in line
            case.come_back()
            assert (await outcome).accepted
            assert commits.healthy
            await commits.publish(publish(event("second")))

    asyncio.run(main())
    assert events_in(path) == ["first", "second"]


def test_a_batch_is_not_acknowledged_once_the_file_is_gone(database, path):
    """Batches follow each other, so the committer is never idle."""

    async def main():
        async with committing(database) as commits:
            acknowledged = []

            async def go_on():
                while True:
                    await commits.publish(publish(event(f"e{len(acknowledged)}")))
                    acknowledged.append(f"e{len(acknowledged)}")

            case = Gone(path, "")
            publishing = asyncio.create_task(go_on())
            await until(lambda: acknowledged)
            case.go()
            with pytest.raises(Unavailable, match="removed or renamed"):
                await publishing
            case.come_back()
            await until(lambda: commits.healthy)
            return acknowledged

    acknowledged = asyncio.run(main())
    assert events_in(path)[: len(acknowledged)] == acknowledged


def test_what_was_acknowledged_is_in_the_file_after_its_log_was_removed(database, path):
    async def main():
        async with committing(database) as commits:
            await commits.publish(publish(event("kept")))
            path.with_name("busway.db-wal").unlink()
            await until(lambda: commits.obstacle)

    asyncio.run(main())
    assert events_in(path) == ["kept"]


def test_a_committer_that_dies_meanwhile_opens_no_other_file(database, path, caplog):
    async def main():
        async with committing(database) as commits:
            await commits.publish(publish(event("first")))
            case = Replaced(path, "")
            os.kill(commits.pid, signal.SIGSTOP)
            case.go()
            before = path.read_bytes()
            os.kill(commits.pid, signal.SIGKILL)
            await until(lambda: "another file" in (commits.obstacle or ""))
            with pytest.raises(Unavailable, match="another file"):
                commits.publish(publish(event("refused")))
            assert path.read_bytes() == before
            case.come_back()
            await until(lambda: commits.healthy)
            await commits.publish(publish(event("second")))
            assert sum("another file" in line for line in said(caplog)) == 1

    asyncio.run(main())
    assert events_in(path) == ["first", "second"]


def test_a_drain_does_not_wait_for_a_file_that_is_gone(database, path):
    async def main():
        async with committing(database) as commits:
            new = event()
            [stored] = await commits.publish(publish(new))
            path.rename(path.with_suffix(".moved"))
            await until(lambda: commits.obstacle)
            outcome = settling(commits, settle(1), run_of(1, new, stored.seq))
            await commits.drained()
            await commits.close(timeout=3600)
            with pytest.raises(Unavailable, match="stopped before"):
                await outcome

    asyncio.run(main())


def test_the_last_connection_removes_no_log_of_another_database(database, path):
    async def main():
        async with committing(database) as commits:
            await commits.publish(publish(event()))
            path.rename(path.with_suffix(".moved"))
            log = path.with_name("busway.db-wal")
            log.unlink()
            log.write_bytes(b"of another")
            await until(lambda: commits.obstacle)

    asyncio.run(main())
    assert path.with_name("busway.db-wal").read_bytes() == b"of another"


def test_a_committer_makes_no_new_database(path):
    path.unlink()

    async def main():
        with pytest.raises(Unavailable, match="unable to open"):
            await open_committer(path, lambda frame: None)

    asyncio.run(main())
    assert not path.exists()


def test_readers_open_everything_at_the_start(database, path):
    async def main():
        async with committing(database) as commits:
            reader = database.reader()
            await reader.open()
            await commits.publish(publish(event()))
            path.parent.rename(path.parent.with_name("elsewhere"))
            totals = await asyncio.gather(*[reader.totals() for _ in range(50)])
            assert totals == [(1, 0)] * 50
            reader.close()

    asyncio.run(main())
