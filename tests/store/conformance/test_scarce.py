"""Descriptors, memory or processes are out while a committer is replaced."""

import asyncio
import errno
import os
import signal

import pytest
from busway.gateway.errors import Unavailable

from tests.scarce import ERRORS, MEMORY, STREAM, Children, descriptors, errors_of, scarce, seeded
from tests.store.kit import committing, event, publish, until

pytestmark = pytest.mark.fault


async def kill(commits):
    pid = commits.pid
    os.kill(pid, signal.SIGKILL)
    await until(lambda: commits.pid != pid)


@pytest.mark.long
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


def test_each_call_on_the_open_channel_may_fail_once(database):
    chance = seeded()

    async def main():
        async with committing(database) as commits:
            pid, stored = commits.pid, 0

            async def store():
                events = [event(data=b"1" * size) for size in (1, 100, 900_000, 900_000)]
                return len(await commits.publish(publish(*events)))

            with scarce(STREAM) as calls:
                calls.fail(lambda _: False)
                stored += await store()
                made = list(calls.made)
                assert {"send", "recv"} <= set(made)
                for number in range(len(made)):
                    calls.fail(lambda n, number=number: n == number, chance.choice(MEMORY))
                    stored += await store()
            assert commits.pid == pid
            assert stored == 4 * (len(made) + 1)

    asyncio.run(main())


@pytest.mark.parametrize("call", ["send", "recv"])
def test_a_channel_without_memory_is_named_and_goes_on_when_there_is_some(database, call):
    async def main():
        async with committing(database) as commits:
            pid = commits.pid
            with scarce({call: STREAM[call]}) as calls:
                calls.fail(lambda _: True, errno.ENOBUFS)
                stored = commits.publish(publish(event()))
                await until(lambda: commits.obstacle == os.strerror(errno.ENOBUFS))
                await until(lambda: len(calls.made) > 5)  # it is tried again and again
                assert not stored.done()
            await stored
            assert (commits.obstacle, commits.pid) == (None, pid)

    asyncio.run(main())


def test_each_call_of_a_committer_on_its_channel_may_fail_once(database, tmp_path, monkeypatch):
    chance, children = seeded(), Children(tmp_path / "children", monkeypatch.setenv)

    async def main():
        async with committing(database) as commits:
            pid = commits.pid

            async def store():
                await commits.publish(publish(*[event(data=b"1" * size) for size in (1, 900_000)]))

            children.count("committer")
            await store()
            made = children.made()
            assert {"send", "recv"} <= set(made)
            for number, call in enumerate(made):
                children.fail("committer", number, number + 1, chance.choice(errors_of(call)))
                await store()
            assert commits.pid == pid

    asyncio.run(main())
