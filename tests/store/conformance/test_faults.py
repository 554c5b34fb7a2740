"""Killed committers and full disks: acknowledged events are kept, every outcome is stored once."""

import asyncio
import os
import random
import signal
from contextlib import asynccontextmanager, contextmanager, suppress

import pytest
from busway.domain.result import Kind
from busway.gateway.errors import Unavailable
from busway.gateway.store.port.reader import EventQuery

from tests.store.kit import append, committing, event, publish, reading, settle, settling, shown, until

pytestmark = pytest.mark.fault


class Handling:
    """Replaces dispatch and recorder: every reported run gets two partials and an outcome."""

    def __init__(self, commits, reader):
        self.commits, self.reader = commits, reader
        self.taken, self.head, self.read = set(), 0, []
        self.rescans = 0
        commits.listen(self.committed)

    def committed(self, change):
        assert change.head >= self.head
        numbers = [result.number for result, _ in change.results]
        assert numbers == list(range(self.head + 1, self.head + 1 + len(numbers)))
        self.head = change.head
        self.rescans += change.rescan
        for run in change.runs:
            self.take(run)

    def take(self, run):
        if run.id in self.taken:
            return
        self.taken.add(run.id)
        for index in (0, 1):
            self.commits.append(append(run.id, index), run, "one")
        published = [event(root=run.event.root, parent=run.id)] if run.event.type == "parent" else []
        self.commits.settle(settle(run.id, root=run.event.root, published=published), run, "one")

    async def finish(self):
        """Run the runs that no commit reported, until none is waiting."""
        while found := await self.reader.waiting(1, 10_000):
            for run in found:
                self.take(run)
            await until(lambda: not self.commits.backlog)


@asynccontextmanager
async def handled(database):
    async with reading(database, threads=4) as reader, committing(database) as commits:
        yield commits, Handling(commits, reader), reader


async def kill_or_cut_off(database, commits, chance):
    await asyncio.sleep(chance.random() / 50)
    if "cut" in database.absent or chance.random() < 0.3:
        await until(lambda: commits.pid)
        os.kill(commits.pid, signal.SIGKILL)
    else:
        await asyncio.to_thread(database.cut, commits)


@pytest.mark.parametrize("round_", range(3))
@pytest.mark.long
def test_nothing_is_lost_when_committers_are_killed_or_cut_off_under_load(database, round_):
    """At any moment of a batch. Without a server, nothing can be cut off."""
    seed = int(os.environ.get("SEED", random.randrange(1 << 32))) + round_
    print(f"SEED={seed - round_}")
    chance = random.Random(seed)
    acknowledged = {}

    async def main():
        async with handled(database) as (commits, handling, reader):
            over = asyncio.Event()

            async def publisher(name):
                n = 0
                while not over.is_set():
                    n += 1
                    ids = [f"{name}-{n}-{k}" for k in range(chance.choice((1, 1, 5)))]
                    while not await send(ids):
                        await asyncio.sleep(0.01)

            async def send(ids):
                type_ = chance.choice(("parent", "plain"))
                try:
                    stored = await commits.publish(publish(*[event(id_, type_=type_) for id_ in ids]))
                except Unavailable:
                    return False
                acknowledged.update(zip(ids, [r.seq for r in stored], strict=True))
                return True

            publishers = [asyncio.create_task(publisher(n)) for n in range(8)]
            for _ in range(6):
                enough = len(acknowledged) + chance.randrange(400)
                await until(lambda enough=enough: commits.pid and len(acknowledged) > enough)
                await kill_or_cut_off(database, commits, chance)
            over.set()
            await asyncio.gather(*publishers)
            await until(lambda: not commits.backlog)
            await handling.finish()
            # A connection may be cut again before the first cut was noticed. A killed committer counts.
            assert handling.rescans >= (6 if "cut" in database.absent else 1)
            await check(reader)

    async def check(reader):
        stored = {e.id: e.seq for e in await reader.events(EventQuery(), 1_000_000)}
        assert sorted(stored.values()) == list(range(1, len(stored) + 1))
        assert {id_: stored.get(id_) for id_ in acknowledged} == acknowledged
        parents = await reader.events(EventQuery(type="parent"), 1_000_000)
        children = await reader.children(list(range(1, 2 * len(stored))))
        assert len(children) == len(parents)
        results = await reader.results(0, 1_000_000, 1 << 40)
        assert [r.number for r in results] == list(range(1, len(results) + 1))
        by_run = {}
        for result in results:
            by_run.setdefault(result.run, []).append((result.kind, result.index))
        once = [(Kind.PARTIAL, 0), (Kind.PARTIAL, 1), (Kind.SUCCEEDED, None)]
        assert all(each == once for each in by_run.values())
        assert len(by_run) == len(stored)
        assert sum(1 for r in results if r.completes) == len(stored) - len(children)

    asyncio.run(main())


def large():
    return event(data=b'"%s"' % (b"x" * 100_000))


def test_a_full_disk_fails_publishing_and_keeps_outcomes_until_space_is_free(database):
    fill_and_free(database, shown(database, "full"))


def filling(folder):
    """Return what fills the disk of a folder meanwhile, as `full` of `fill_and_free`."""

    @contextmanager
    def full(_commits):
        ballast = folder / "ballast"
        with ballast.open("wb", buffering=0) as file, suppress(OSError):
            while True:
                file.write(bytes(4096))
        yield
        ballast.unlink()

    return full


def fill_and_free(database, full):
    async def main():
        async with handled(database) as (commits, handling, reader):
            committer = commits.pid
            await commits.publish(publish(event("first")))
            await until(lambda: not commits.backlog)
            handling.take = lambda run: None
            await commits.publish(publish(event("second")))
            [run] = await reader.waiting(1, 10)
            with full(commits):
                with pytest.raises(Unavailable):
                    await asyncio.gather(*[commits.publish(publish(large())) for _ in range(20)])
                settled = settling(commits, settle(run.id, root=run.event.root), run)
                await until(lambda: not commits.healthy)
            assert (await settled).accepted
            before = len(await reader.events(EventQuery(), 1000))
            assert (await commits.publish(publish(event("third"))))[0].seq == before + 1
            assert commits.healthy
            assert commits.pid == committer
            results = await reader.results(0, 100, 1 << 20)
            assert [(r.run, r.kind) for r in results][-1] == (run.id, Kind.SUCCEEDED)
            assert handling.rescans

    asyncio.run(main())
