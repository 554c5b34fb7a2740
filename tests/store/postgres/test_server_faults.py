"""A server that cannot write: read-only while it runs, its disk full, its syncs failing.

Publishing is refused, reading goes on, outcomes wait, and all goes on by itself.
"""

import asyncio
import contextlib
import itertools
import shutil
import subprocess

import msgspec
import psycopg
import pytest
from busway.gateway.errors import Unavailable
from busway.gateway.store.group.commits import GroupCommits
from busway.gateway.store.port.cell import Offer
from busway.gateway.store.port.reader import EventQuery
from busway.gateway.store.postgres.cell import PostgresCellLink
from busway.gateway.store.postgres.facade import PostgresDatabase
from busway.gateway.store.postgres.reader import PostgresReader

from tests.servers.postgres import NOBODY, running
from tests.store.conformance.test_faults import fill_and_free, filling, handled
from tests.store.kit import event, publish, settle, settling, until
from tests.store.postgres.test_nodes import Cell
from tests.store.sqlite.test_sync_errors import failing

pytestmark = [pytest.mark.fault, pytest.mark.long]


class Own:
    """A new database on a server of its own."""

    def __init__(self, server, options=""):
        server.drop("busway")
        self.url = server.create("busway", options)
        PostgresDatabase(self.url).migrate()

    def commits(self, launched=None):
        return GroupCommits(self.url, launched)

    def reader(self, threads=4):
        return PostgresReader(self.url, threads)


@pytest.fixture(scope="module")
def server():
    with running() as made:
        yield made


async def refused(commits):
    """Publish until it is refused, and return why."""
    async with asyncio.timeout(120):
        while True:
            try:
                await commits.publish(publish(event()))
            except Unavailable as refusal:
                return refusal.detail


@contextlib.contextmanager
def setting(server):
    """The default of transactions. Sessions that are open get it soon."""
    server.set("default_transaction_read_only", "on")
    yield
    server.set("default_transaction_read_only", "off")


@contextlib.contextmanager
def standby(server):
    """The server becomes a standby, and later a primary again."""
    server.stop()
    signal = server.folder / "data" / "standby.signal"
    signal.touch()
    signal.chmod(0o644)
    server.start()
    yield
    server.execute("SELECT pg_promote()")


@pytest.mark.parametrize("fault", [setting, standby])
def test_a_database_that_becomes_read_only_takes_nothing_until_it_can_be_written(server, fault):
    own = Own(server)

    async def main():
        async with handled(own) as (commits, handling, reader):
            handling.take = lambda run: None
            await commits.publish(publish(event("first")))
            [run] = await reader.waiting(1, 10)
            with fault(server):
                await refused(commits)
                settled = settling(commits, settle(run.id, root=run.event.root), run)
                await until(lambda: "read-only" in (commits.obstacle or ""))
                assert (await reader.events(EventQuery(), 1000))[-1].id == "first"
                assert not settled.done()
            assert (await settled).accepted
            await until(lambda: commits.healthy)
            stored = await reader.events(EventQuery(), 1000)
            assert [each.seq for each in stored[::-1]] == [*range(1, len(stored) + 1)]
            assert (await commits.publish(publish(event("last"))))[0].seq == len(stored) + 1

    asyncio.run(main())


@pytest.fixture
def small_disk(server):
    """A folder of the server on a disk of 32 MiB."""
    folder = server.folder / "small"
    folder.mkdir()
    options = f"size=32m,uid={NOBODY},gid={NOBODY},mode=700"
    try:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True, capture_output=True
        )
    except (subprocess.CalledProcessError, FileNotFoundError):
        pytest.skip("only root may mount")
    server.execute(f"CREATE TABLESPACE small LOCATION '{folder}'")
    yield folder
    server.drop("busway")
    server.execute("DROP TABLESPACE small")
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_of_the_server_fails_publishing_and_keeps_outcomes(server, small_disk):
    fill_and_free(Own(server, "TABLESPACE small"), filling(small_disk))


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_a_server_that_cannot_sync_restarts_and_nothing_acknowledged_is_lost(server, tmp_path):
    """PostgreSQL ends all sessions when a sync fails, and recovers from its log."""
    own = Own(server)
    writer = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'busway/committer/%'"

    async def main():
        async with handled(own) as (commits, handling, reader):
            handling.take = lambda run: None
            acknowledged = {"before": (await commits.publish(publish(event("before"))))[0].seq}
            [(pid,)] = server.execute(writer)
            async with failing(pid, tmp_path / "strace", "EIO"):
                await refused(commits)
            await until(lambda: commits.healthy)
            acknowledged["after"] = (await commits.publish(publish(event("after"))))[0].seq
            stored = {each.id: each.seq for each in await reader.events(EventQuery(), 1000)}
            assert acknowledged.items() <= stored.items()
            assert sorted(stored.values()) == [*range(1, len(stored) + 1)]

    asyncio.run(main())
    assert "PANIC" in (server.folder / "log").read_text()


def test_commits_go_on_without_notifications_while_their_queue_is_full_and_with_them_after_it(server):
    """A session that listens, in any database of the server, and stays in a transaction lets it fill."""
    if int(server.execute("SHOW server_version_num")[0][0]) < 170_000:
        pytest.skip("its queue has 8 GiB")
    with running(max_notify_queue_pages="64") as own_server, psycopg.connect(own_server.url()) as stuck:
        own = Own(own_server)
        cell = Cell(own).begin()
        stuck.execute("LISTEN anything")
        stuck.commit()
        stuck.execute("SELECT 1")
        filling = "SELECT pg_notify('anything', n || repeat('x', 7900)) FROM generate_series(1, %s) AS n"
        with contextlib.suppress(psycopg.errors.ProgramLimitExceeded):
            while True:
                cell.ask(filling, 1)

        async def main():
            link = PostgresCellLink(own.url)
            await link.open()
            await link.offer(cell.one, Offer(processes=1, code="code"))
            commits = own.commits()
            await commits.start(cell.one)
            try:
                sent = [msgspec.structs.replace(publish(event(f"{n}")), rules=3) for n in range(20)]
                stored = await asyncio.gather(*[commits.publish(each) for each in sent])
                assert [one.seq for [one] in stored] == [*range(1, 21)]
                assert await link.wait(0.1) == []
                assert commits.stats.failures == 0
                stuck.close()
                number = itertools.count(20)
                while not await link.wait(1.0):
                    await commits.publish(msgspec.structs.replace(publish(event(f"{next(number)}")), rules=3))
                assert commits.stats.failures == 0
            finally:
                await commits.close()
                await link.close()

        asyncio.run(asyncio.wait_for(main(), 120))
