"""Files of the database that go away while a committer has them open, and come back."""

import asyncio
import logging
import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from busway.gateway.errors import BadSettings, Unavailable
from busway.gateway.store.group.process import open_committer
from busway.gateway.store.sqlite import database as sqlite
from busway.gateway.store.sqlite.backup import back_up
from busway.gateway.store.sqlite.checkpoints import IDLE_BATCHES
from busway.gateway.store.sqlite.content import SETTLED_AFTER, DatabaseContent

from tests.store.databases import SQLite
from tests.store.kit import committing, event, publish, reading, run_of, settle, settling, until

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


@pytest.mark.parametrize("lost", [("-wal",), ("", "-wal", "-shm")])
def test_what_was_acknowledged_is_in_the_open_file_after_files_were_removed(database, path, lost):
    """As `rm` and `git clean` do it. Nothing is lost when the machine stops then, or the file is rescued."""
    rescued = path.with_name("rescued.db")

    async def main():
        async with committing(database) as commits, reading(database):
            await commits.publish(publish(event("kept")))
            for ending in lost:
                path.with_name(f"{path.name}{ending}").unlink()
            await until(lambda: commits.obstacle)
            folder = Path(f"/proc/{commits.pid}/fd")
            [file, *_] = [each for each in folder.iterdir()
                          if each.readlink().name.removesuffix(" (deleted)") == path.name]  # fmt: skip
            await until(lambda: b"kept" in file.read_bytes())
            shutil.copyfile(file, rescued)
            os.kill(commits.pid, signal.SIGKILL)

    asyncio.run(main())
    sqlite.migrate(rescued)
    assert events_in(rescued) == ["kept"]
    assert path.exists() is ("" not in lost)


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


COPIES = {
    "a backup": lambda path, copy: back_up(path, copy, lambda _done, _all: None),
    "the bare file": shutil.copyfile,
}


@pytest.mark.parametrize(("kind", "batches"), [("a backup", 1), ("a backup", 100), ("the bare file", 100)])
def test_a_copy_over_the_open_file_is_noticed_and_nothing_is_mixed(database, path, kind, batches):
    """As `cp` and `rsync --inplace` do it: name and inode stay. With 100 batches there was a checkpoint."""
    copy = path.with_name("copy.db")

    async def main():
        async with committing(database) as commits:
            await commits.publish(publish(event("first")))
        COPIES[kind](path, copy)
        async with committing(database) as commits, reading(database):
            for number in range(batches):
                await commits.publish(publish(event(f"lost-{number}")))
            if batches > IDLE_BATCHES:
                await until(lambda: path.read_bytes().count(b"lost-") >= batches)
            shutil.copyfile(copy, path)
            await until(lambda: commits.obstacle)
            assert "overwritten" in commits.obstacle
            with pytest.raises(Unavailable, match=path.name):
                commits.publish(publish(event("refused")))
            await until(lambda: "is kept in" in (commits.obstacle or ""))
            assert str(next(path.parent.glob("busway.db-wal.*"))) in commits.obstacle
            os.kill(commits.pid, signal.SIGKILL)  # the next committer writes nothing either
            await until(lambda: commits.obstacle and "is kept in" not in commits.obstacle)

    asyncio.run(main())
    assert path.read_bytes() == copy.read_bytes()
    [kept] = path.parent.glob("busway.db-wal.*")
    assert kept.stat().st_size > 0
    assert not path.with_name("busway.db-wal").exists()


def test_a_gateway_that_is_stopped_at_once_leaves_what_was_copied_over_its_file(database, path):
    copy = path.with_name("copy.db")

    async def main():
        async with committing(database) as commits, reading(database):
            await commits.publish(publish(event("first")))
            COPIES["a backup"](path, copy)
            await commits.publish(publish(event("lost")))
            shutil.copyfile(copy, path)

    asyncio.run(main())
    assert path.read_bytes() == copy.read_bytes()
    assert not path.with_name("busway.db-wal").exists()
    assert len([*path.parent.glob("busway.db-wal.*")]) == 1


def test_what_leaves_the_content_as_it_was_is_no_fault(database, path):
    """Also the checkpoint of another program, which only SQLite's own index of the log can tell."""
    copy = path.with_name("copy.db")
    batches, foreign = database.batches(), sqlite3.connect(path)
    try:
        [root] = foreign.execute("SELECT rootpage FROM sqlite_master WHERE name = 'head'").fetchone()
        [size] = foreign.execute("PRAGMA page_size").fetchone()
        content = DatabaseContent(path, root, size)
        batches.write([publish(event("first"))])
        assert not content.changed()
        os.utime(path)
        assert not content.changed()
        shutil.copyfile(path, copy)
        shutil.copyfile(copy, path)
        assert not content.changed()
        foreign.execute("PRAGMA wal_checkpoint")
        assert not content.changed()
        batches.write([publish(event("second"))])
        assert not content.changed()
        foreign.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        batches.write([publish(event("third"))])
        assert not content.changed()
        shutil.copyfile(copy, path)
        assert content.changed()
    finally:
        foreign.close()
        batches.close()


@contextmanager
def looked_at(database, path):
    """What a committer has to find out whether its file was overwritten, and a program that checkpoints."""
    batches, ours = database.batches(), sqlite3.connect(path)
    try:
        [root] = ours.execute("SELECT rootpage FROM sqlite_master WHERE name = 'head'").fetchone()
        [size] = ours.execute("PRAGMA page_size").fetchone()
        content = DatabaseContent(path, root, size)
        yield batches, ours, content, {"first page": 0, "head": size * (root - 1)}
        content.close()
    finally:
        ours.close()
        batches.close()


def checkpoint(connection, mode):
    return connection.execute(f"PRAGMA wal_checkpoint({mode})").fetchone()[1:]


@pytest.mark.parametrize("meanwhile", [False, True])
@pytest.mark.parametrize("part", ["all", "first page", "head"])
def test_a_copy_over_the_file_while_a_checkpoint_runs_is_noticed(database, path, part, meanwhile):
    """The last moment for it is after the last page was written. The log has what should be there.

    `meanwhile`: a batch is written after it began, as while one runs in the background.
    """
    copy = path.with_name("copy.db")
    with looked_at(database, path) as (batches, ours, content, places):
        shutil.copyfile(path, copy)
        batches.write([publish(*(event(data=b"x" * 5000) for _ in range(20)))])
        assert path.with_name("busway.db-wal").stat().st_size > 100_000
        assert not content.changed()
        with closing(sqlite3.connect(path)) as reader:
            reader.isolation_level = None
            reader.execute("BEGIN")
            reader.execute("SELECT 1 FROM head").fetchone()  # the log does not begin again
            pages, written = checkpoint(ours, "PASSIVE")
            if meanwhile:
                batches.write([publish(event())])
        assert pages == written > 20
        if part == "all":
            shutil.copyfile(copy, path)
        else:
            with path.open("r+b") as file:
                file.seek(places[part])
                file.write(copy.read_bytes()[places[part] :][:4096])
        content.checkpointed(pages, written)
        assert content.changed()
        if not meanwhile:
            time.sleep(SETTLED_AFTER)
            assert content.changed()
            assert content.settled


def test_no_checkpoint_is_taken_for_a_copy(database, path):
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    with looked_at(database, path) as (batches, ours, content, _), closing(sqlite3.connect(path)) as reader:
        ours.execute("PRAGMA busy_timeout=0")
        reader.isolation_level = None
        for _ in range(150):
            match chance.randrange(6):
                case 0 | 1:
                    size = chance.choice([1, 9000])
                    batches.write(
                        [publish(*(event(data=b"x" * size) for _ in range(chance.randrange(1, 9))))]
                    )
                case 2:
                    if reader.in_transaction:
                        reader.execute("COMMIT")
                    else:
                        reader.execute("BEGIN")
                        reader.execute("SELECT count(*) FROM events").fetchone()
                case 3:
                    assert not content.changed()
                    found = checkpoint(ours, "PASSIVE")
                    # The log cannot begin again then, as while one runs in the background.
                    if reader.in_transaction:
                        batches.write([publish(event(data=b"x" * chance.choice([1, 9000])))])
                    content.checkpointed(*found)
                case 4:
                    assert not content.changed()
                    content.checkpointed(*checkpoint(ours, "PASSIVE"))
                    content.checkpointed(*checkpoint(ours, "TRUNCATE"))
                case 5:  # another program commits and checkpoints before the content is looked at
                    found = checkpoint(ours, "PASSIVE")
                    batches.write([publish(event(data=b"x" * 9000))])
                    checkpoint(ours, chance.choice(["PASSIVE", "TRUNCATE"]))
                    content.checkpointed(*found)
            assert not content.changed()
        assert ours.execute("SELECT count(*) FROM events").fetchone() > (50,)


CHECKPOINT = """
import sqlite3, sys
other = sqlite3.connect(sys.argv[1])
print(other.execute("SELECT count(*) FROM events").fetchone()[0], flush=True)
sys.stdin.readline()
other.execute("PRAGMA wal_checkpoint")
"""


def test_the_checkpoint_of_another_program_is_no_fault_while_it_runs(database, path):
    with looked_at(database, path) as (batches, _, content, _):
        for _ in range(60):
            batches.write([publish(event(data=b'"%s"' % (b"x" * 500_000)))])
        assert not content.changed()
        command = [sys.executable, "-c", CHECKPOINT, str(path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
            other.stdout.readline()
            other.stdin.write(b"\n")
            other.stdin.flush()
            while other.poll() is None:
                assert not content.changed()
        assert not content.changed()
        log = content.find_log()
        assert log.done == log.begun == log.frames > 5000


def test_a_log_that_another_program_has_checkpointed_may_begin_again(database, path):
    with looked_at(database, path) as (batches, ours, content, _), closing(sqlite3.connect(path)) as reader:
        batches.write([publish(event())])
        reader.isolation_level = None
        reader.execute("BEGIN")
        reader.execute("SELECT 1 FROM head").fetchone()
        assert not content.changed()
        content.checkpointed(*checkpoint(ours, "PASSIVE"))
        batches.write([publish(event(data=b"x" * 9000))])  # the reader keeps the log
        assert content.look() > 0
        before = content.find_log()
        reader.execute("COMMIT")
        checkpoint(reader, "PASSIVE")
        batches.write([publish(event())])
        assert content.find_log().salt != before.salt
        assert not content.changed()


def test_a_restored_backup_does_not_get_the_log_of_the_database_that_it_replaced(database, path):
    """A killed gateway leaves a log that SQLite would take for that of any file of the same name."""
    copy = path.with_name("copy.db")

    async def main():
        async with committing(database) as commits, reading(database):
            await commits.publish(publish(event("first")))
            COPIES["a backup"](path, copy)
            await commits.publish(publish(event("second")))
            for ending in ("", "-wal"):  # what a power failure leaves
                shutil.copyfile(f"{path}{ending}", path.with_name(f"killed.db{ending}"))

    asyncio.run(main())
    killed = path.with_name("killed.db")
    before = killed.read_bytes()
    copy.replace(killed)
    log = killed.with_name("killed.db-wal")
    with pytest.raises(BadSettings, match=r"killed\.db-wal' belongs to another database"):
        sqlite.migrate(killed)
    copied = killed.read_bytes()
    killed.write_bytes(before)
    sqlite.migrate(killed)
    assert events_in(killed) == ["first", "second"]
    killed.write_bytes(copied)
    log.unlink(missing_ok=True)
    sqlite.migrate(killed)
    assert events_in(killed) == ["first"]
