"""A copy of a database that is in use: of one moment, complete or not there, and a database of its own."""

import asyncio
import os
import resource
import signal
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
from busway.gateway.errors import BadSettings, BuswayError
from busway.gateway.store.port.reader import EventQuery
from busway.gateway.store.sqlite import database as sqlite
from busway.gateway.store.sqlite.backup import back_up

from tests.store.databases import SQLiteFile
from tests.store.kit import committing, event, listening, publish, reading, settle, settling, until

LARGE = b'"%s"' % (b"x" * 100_000)  # 25 pages of the database


def silent(_done, _all):
    """Show nothing."""


def fill(store):
    """Make the database so large that a copy takes many steps."""
    store.write(publish(*[event(f"old {n}", data=LARGE) for n in range(50)]))


def names(folder):
    return [file.name for file in folder.iterdir()]


def ids(path):
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA quick_check").fetchall() == [("ok",)]
        return [id_ for (id_,) in connection.execute("SELECT id FROM events ORDER BY seq")]


@pytest.fixture
def target(tmp_path):
    (tmp_path / "copies").mkdir()
    return tmp_path / "copies" / "copy.db"


def test_a_copy_has_all_that_was_acknowledged_and_writers_do_not_wait_for_it(database, path, target):
    """Between two steps of the copy there is always a commit."""

    async def main():
        async with committing(database) as commits:
            notified = listening(commits)
            await commits.publish(publish(*[event(f"old {n}", data=LARGE) for n in range(50)]))
            await settling(commits, settle(1), notified.runs[0])
            loop, steps = asyncio.get_running_loop(), []

            def written_meanwhile(done, all_):
                new = event(f"new {len(steps)}", data=LARGE)
                steps.append((done, all_))
                assert len(steps) < 100, "it starts again after each commit"
                asyncio.run_coroutine_threadsafe(stored(new), loop).result(60)

            async def stored(new):
                return await commits.publish(publish(new))

            await asyncio.to_thread(back_up, path, target, written_meanwhile)
            assert len(steps) > 3
            assert [done for done, _ in steps] == sorted({done for done, _ in steps})
            assert {all_ for _, all_ in steps} == {steps[-1][0]}
            return commits.epoch

    epoch = asyncio.run(main())
    assert ids(target) == [f"old {n}" for n in range(50)]
    assert len(ids(path)) > 53
    sqlite.migrate(target)  # as `serve` does

    async def restored():
        copy = SQLiteFile(target)
        async with committing(copy) as commits, reading(copy) as reader, reading(database) as original:
            assert commits.epoch == epoch
            assert await reader.position(1) == await original.position(1)
            assert (await commits.publish(publish(event("old 0"), event("after"))))[1].seq == 51
            assert await reader.totals() == (51, 1)

    asyncio.run(restored())


def test_a_copy_while_runs_succeed_has_each_with_its_result(database, path, target):
    async def main():
        async with committing(database) as commits:
            over = asyncio.Event()

            def take(change):
                for run in change.runs:
                    outcome = settle(run.id, event=run.event.seq, root=run.event.seq)
                    commits.settle(outcome, run, "one")

            commits.listen(take)

            async def write():
                while not over.is_set():
                    await commits.publish(publish(*[event(data=LARGE[:9000] + b'"') for _ in range(3)]))

            writing = asyncio.create_task(write())
            for n in range(3):
                await asyncio.to_thread(back_up, path, target.with_name(f"{n}.db"), silent)
            over.set()
            await writing

    asyncio.run(main())

    async def check(copy):
        async with reading(copy) as reader:
            events, results = await reader.totals()
            assert events % 3 == 0
            log = await reader.results(0, 1_000_000, 1 << 40)
            assert [result.number for result in log] == list(range(1, results + 1))
            done = {"succeeded": results, "available": events - results}
            assert await reader.counts() == ({1: {s: n for s, n in done.items() if n}} if events else {})
            assert len(await reader.events(EventQuery(), 1_000_000)) == events

    for n in range(3):
        asyncio.run(check(SQLiteFile(target.with_name(f"{n}.db"))))


@pytest.mark.fault
def test_a_copy_continues_when_the_committer_is_killed(database, path, target):
    async def main():
        async with committing(database) as commits, reading(database):
            await commits.publish(publish(*[event(f"old {n}", data=LARGE) for n in range(50)]))
            first = commits.pid

            def kill_once(done, _all):
                if done <= 1 << 20:
                    os.kill(first, signal.SIGKILL)

            await asyncio.to_thread(back_up, path, target, kill_once)
            await until(lambda: commits.healthy and commits.pid != first)
            await commits.publish(publish(event("after")))

    asyncio.run(main())
    assert ids(target) == [f"old {n}" for n in range(50)]


def test_a_database_that_a_killed_gateway_left_is_copied_with_its_log(store, path, target):
    store.write(publish(event("in the log")))
    for end in ("", "-wal"):
        target.with_name("left.db" + end).write_bytes(path.with_name(path.name + end).read_bytes())
    back_up(target.with_name("left.db"), target, silent)
    assert ids(target) == ["in the log"]


def test_only_the_owner_can_read_a_copy(store, path, target):
    before = os.umask(0)
    try:
        size = back_up(path, target, silent)
    finally:
        os.umask(before)
    assert (stat.S_IMODE(target.stat().st_mode), target.stat().st_size) == (0o600, size)
    assert names(target.parent) == [target.name]


@pytest.mark.parametrize("end", ["", "-wal", "-shm", "-journal"])
def test_a_file_that_exists_is_refused_and_kept(store, path, target, end):
    other = target.with_name(target.name + end)
    other.write_bytes(b"mine")
    with pytest.raises(BadSettings, match=f"{other.name}' exists already"):
        back_up(path, target, silent)
    assert other.read_bytes() == b"mine"
    assert names(target.parent) == [other.name]


def test_a_link_to_nowhere_is_not_followed(store, path, target):
    target.symlink_to("elsewhere.db")
    with pytest.raises(BadSettings, match="exists already"):
        back_up(path, target, silent)
    assert names(target.parent) == [target.name]


def test_a_file_that_appears_meanwhile_is_kept(store, path, target):
    with pytest.raises(BadSettings, match="exists already"):
        back_up(path, target, lambda _done, _all: target.write_bytes(b"mine"))
    assert target.read_bytes() == b"mine"
    assert names(target.parent) == [target.name]


def test_an_interrupted_copy_leaves_nothing(store, path, target):
    def interrupt(_done, _all):
        raise KeyboardInterrupt

    fill(store)
    with pytest.raises(KeyboardInterrupt):
        back_up(path, target, interrupt)
    assert names(target.parent) == []
    store.write(publish(event("after")))


def missing(path):
    path.unlink()


def foreign(path):
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE events (id)")


def text(path):
    path.write_bytes(b"Dear diary, " * 1000)


def empty(path):
    path.write_bytes(b"")


CASES = {
    missing: "there is no database",
    foreign: "another program",
    text: "not a database",
    empty: "is empty",
}


@pytest.mark.parametrize("case", CASES)
def test_what_is_no_database_of_busway_is_refused(database, path, target, case):
    case(path)
    before = path.read_bytes() if path.exists() else None
    with pytest.raises(BadSettings, match=CASES[case]):
        back_up(path, target, silent)
    assert (path.read_bytes() if path.exists() else None) == before
    assert names(target.parent) == []


def test_a_folder_that_does_not_exist_is_named(store, path, target):
    with pytest.raises(BadSettings, match="there is no folder"):
        back_up(path, target.parent / "nowhere" / "copy.db", silent)


@pytest.mark.fault
def test_a_killed_copy_leaves_no_file_of_that_name(store, path, target):
    fill(store)
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from busway.gateway.store.sqlite.backup import back_up\n"
        "def wait(done, all_):\n"
        "    print(done >> 20, flush=True)\n"
        "    if done > 1 << 20: sys.stdin.read()\n"
        "back_up(Path(sys.argv[1]), Path(sys.argv[2]), wait)\n"
    )
    command = [sys.executable, "-c", code, str(path), str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as copying:
        assert copying.stdout is not None
        assert [int(copying.stdout.readline()) for _ in range(2)] == [1, 2]  # MiB
        store.write(publish(event("meanwhile")))
        copying.kill()
    (left,) = target.parent.iterdir()
    assert left.name.endswith(".partial")
    back_up(path, target, silent)
    assert ids(target)[-1] == "meanwhile"


@pytest.fixture(params=["a disk that is full", "a limit of file sizes"])
def too_small(request, target):
    """Where there is no room for the copy: the options for the process that makes it."""
    if request.param == "a limit of file sizes":
        yield {"preexec_fn": lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 40))}
        return
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", target.parent]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root may mount")
    yield {}
    subprocess.run(["umount", target.parent], check=True)


@pytest.mark.fault
def test_a_copy_for_which_there_is_no_room_leaves_nothing(store, path, target, too_small):
    fill(store)
    command = [sys.executable, "-m", "busway", "backup", str(target), f"--database-url=sqlite:///{path}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, **too_small)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("busway: cannot copy")
    assert "full" in line or "I/O" in line
    assert names(target.parent) == []
    store.write(publish(event("after")))


def test_a_folder_that_cannot_be_written_is_named(store, path):
    with pytest.raises(BuswayError, match="cannot write the copy '/proc/copy"):
        back_up(path, Path("/proc/copy.db"), silent)
