"""A disk that is really full, and a database that a new committer cannot open."""

import asyncio
import os
import signal
import subprocess

import pytest
from busway.gateway.errors import Unavailable

from tests.store.conformance.test_faults import fill_and_free, filling, handled
from tests.store.databases import SQLite
from tests.store.kit import event, publish, until

pytestmark = pytest.mark.fault


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 4 MiB."""
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", tmp_path]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (subprocess.CalledProcessError, FileNotFoundError):
        pytest.skip("only root may mount; the conformance suite limits the size of files")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


def test_a_full_disk_fails_publishing_and_keeps_outcomes_until_space_is_free(small_disk, shared_folder):
    fill_and_free(SQLite(small_disk, shared_folder), filling(small_disk))


def test_a_committer_that_cannot_start_is_retried_and_operations_are_refused_meanwhile(database, path):
    async def main():
        async with handled(database) as (commits, handling, _):
            handling.take = lambda run: None
            hidden = path.with_suffix(".hidden")
            path.rename(hidden)
            path.mkdir()
            os.kill(commits.pid, signal.SIGKILL)
            await until(lambda: commits.pid is None)
            waited = commits.publish(publish(event()))
            with pytest.raises(Unavailable, match="another file is in the place"):
                await waited
            with pytest.raises(Unavailable, match="another file is in the place"):
                commits.publish(publish(event()))
            path.rmdir()
            hidden.rename(path)
            await until(lambda: commits.healthy)
            await commits.publish(publish(event()))

    asyncio.run(main())
