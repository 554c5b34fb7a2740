"""Descriptors, memory or processes are out while a committer is replaced."""

import asyncio
import errno
import os
import signal

import pytest
from busway.gateway.errors import Unavailable

from tests.scarce import ERRORS, descriptors, scarce, seeded
from tests.store.kit import committing, event, publish, until

pytestmark = pytest.mark.fault


async def kill(commits):
    pid = commits.pid
    os.kill(pid, signal.SIGKILL)
    await until(lambda: commits.pid != pid)


def test_each_call_may_fail_once(database):
    chance = seeded()

    async def main():
        async with committing(database) as commits:
            await commits.publish(publish(event()))
            before = descriptors()
            with scarce() as calls:
                calls.fail(lambda _: False)
                await kill(commits)
                await until(lambda: commits.healthy)
                assert calls.made
                for number in range(len(calls.made)):
                    calls.fail(lambda n, number=number: n == number, chance.choice(ERRORS))
                    await kill(commits)
                    await until(lambda: commits.healthy)
                    await commits.publish(publish(event()))
            assert descriptors() <= before

    asyncio.run(main())


def test_publishing_is_refused_at_once_while_no_committer_can_be_started(database, caplog):
    async def main():
        async with committing(database) as commits:
            with scarce() as calls:
                calls.fail(lambda _: True)
                await kill(commits)
                with pytest.raises(Unavailable, match=os.strerror(errno.EMFILE)):
                    await commits.publish(publish(event()))
                for _ in range(3):
                    with pytest.raises(Unavailable, match=os.strerror(errno.EMFILE)):
                        commits.publish(publish(event()))
                await commits.drained()
                await until(lambda: len(calls.made) > 3)  # it is tried again and again
                assert os.strerror(errno.EMFILE) in commits.obstacle
                assert sum("cannot be started" in line for line in caplog.messages) == 1
            await until(lambda: commits.healthy)
            await commits.publish(publish(event()))

    asyncio.run(main())
