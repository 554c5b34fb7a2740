"""A new committer cannot open the file, because another program writes."""

import asyncio
import sqlite3
from contextlib import closing

import pytest
from busway.gateway.errors import Unavailable
from busway.gateway.store.group import process

from tests.store.conformance.test_scarce import kill
from tests.store.kit import committing, event, publish, until

pytestmark = pytest.mark.fault


def test_publishing_does_not_wait_for_a_committer_that_cannot_open_the_database(database, path):
    async def main():
        async with committing(database) as commits:
            with closing(sqlite3.connect(path, isolation_level=None)) as foreign:
                foreign.execute("BEGIN IMMEDIATE")
                await kill(commits)
                with pytest.raises(Unavailable, match="no other could open the database yet"):
                    await commits.publish(publish(event()))
                await commits.drained()
                foreign.execute("ROLLBACK")
                await until(lambda: commits.healthy)
                await commits.publish(publish(event()))

    asyncio.run(main())


def test_a_gateway_ends_while_a_committer_cannot_open_the_database(database, path):
    async def main():
        async with committing(database) as commits:
            with closing(sqlite3.connect(path, isolation_level=None)) as foreign:
                foreign.execute("BEGIN IMMEDIATE")
                await kill(commits)
                with pytest.raises(Unavailable):
                    await commits.publish(publish(event()))
                async with asyncio.timeout(process.START_TIMEOUT / 2):
                    await commits.close(timeout=3600)

    asyncio.run(main())
