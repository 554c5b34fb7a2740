"""A disk that fails to sync or to write: the commit fails, its connection is closed and never synced again.

Linux marks pages as clean that it could not write, so a second fsync of the same file says that all is well
while the disk does not have them.
"""

import asyncio
import contextlib
import re
import shutil
import sqlite3
import subprocess

import pytest
from busway.gateway.errors import Unavailable
from busway.gateway.store.port.reader import EventQuery

from tests.marks import few
from tests.store.conformance.test_faults import handled
from tests.store.kit import event, publish

pytestmark = [
    pytest.mark.fault,
    pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace"),
]
SYNCS, WRITES = "fsync,fdatasync", "pwrite64,ftruncate"


@contextlib.asynccontextmanager
async def failing(pid, log, error, calls=SYNCS, *only):
    """Let every sync of a process fail. `log` gets what it opens, syncs and closes, from now on.

    `calls`: what fails instead. `only`: options of strace.
    """
    command = ["strace", "-f", "-p", str(pid), "-o", str(log), "-e", f"trace=openat,close,{SYNCS},{calls}"]
    command += ["-e", f"inject={calls}:error={error}", *only]
    tracer = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    said = await asyncio.to_thread(tracer.stderr.readline)
    if "attached" not in said:
        tracer.kill()
        tracer.wait()
        pytest.skip(f"strace may not attach here: {said}")
    try:
        yield
    finally:
        tracer.terminate()
        await asyncio.to_thread(tracer.communicate)


def synced_again(log):
    """The descriptors that were synced after a sync of theirs failed, without being closed in between."""
    failed, again = set(), []
    for line in log.read_text().splitlines():
        if sync := re.search(r"\b(?:fsync|fdatasync)\((\d+)\)", line):
            if sync[1] in failed:
                again.append(line)
            failed.add(sync[1])
        elif closed := re.search(r"\bclose\((\d+)\)", line):
            failed.discard(closed[1])
    assert failed or "INJECTED" in log.read_text(), "no sync failed"
    return again


async def again(send):
    async with asyncio.timeout(120):
        while True:
            try:
                return await send()
            except Unavailable:  # the committer may be starting
                await asyncio.sleep(0.05)


@pytest.mark.parametrize(
    ("calls", "error"),
    few([(SYNCS, "EIO"), (SYNCS, "ENOSPC"), (WRITES, "EROFS")], (SYNCS, "EIO"), (WRITES, "EROFS")),
)
def test_a_failed_sync_or_write_ends_the_connection_and_loses_nothing(database, tmp_path, calls, error):
    """EROFS: the kernel has made the file system read-only, as it does after an error of the disk."""
    log = tmp_path / "strace"

    async def main():
        async with handled(database) as (commits, handling, reader):
            handling.take = lambda run: None
            await commits.publish(publish(event("before")))
            acknowledged = {"before"}
            async with failing(commits.pid, log, error, calls):
                for number in range(3):
                    with pytest.raises(Unavailable):
                        await commits.publish(publish(event(f"during-{number}")))
                assert len(await reader.events(EventQuery(), 100)) >= 1  # reading goes on
            for number in range(3):  # as a client does that got 503: with the same id
                await again(lambda number=number: commits.publish(publish(event(f"during-{number}"))))
                acknowledged.add(f"during-{number}")
            assert commits.healthy
            stored = await reader.events(EventQuery(), 100)
            assert sorted(e.id for e in stored) == sorted(acknowledged)
            assert sorted(e.seq for e in stored) == [1, 2, 3, 4]

    asyncio.run(main())
    assert synced_again(log) == []


def test_a_checkpoint_in_the_background_that_fails_to_sync_loses_nothing(database, path, tmp_path):
    """The log is synced, so publishing goes on. What the database file lacks is checkpointed later."""
    log, acknowledged = tmp_path / "strace", set()

    async def main():
        async with handled(database) as (commits, handling, _):
            handling.take = lambda run: None
            async with failing(commits.pid, log, "EIO", SYNCS, "-P", str(path)):
                while not (log.exists() and log.read_text().count("INJECTED") >= 3):
                    event_id = f"large-{len(acknowledged)}"
                    large = event(event_id, data=b'"%s"' % (b"x" * 400_000))
                    await commits.publish(publish(large))
                    acknowledged.add(event_id)
                    assert len(acknowledged) < 1000, "no sync failed"
            await commits.publish(publish(event("after")))
            acknowledged.add("after")

    asyncio.run(main())
    assert synced_again(log) == []
    with contextlib.closing(sqlite3.connect(path)) as stored:
        assert {id_ for (id_,) in stored.execute("SELECT id FROM events")} == acknowledged
        assert stored.execute("PRAGMA integrity_check").fetchone() == ("ok",)
