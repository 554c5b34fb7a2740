"""A real supervisor over a folder of handler files, driven by the tests."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import textwrap
import time
from contextlib import AsyncExitStack, asynccontextmanager

import psutil
from busway.domain.event import Event
from busway.gateway.executors.port import Assignment, Ended, Partial, Returned, Room, Started
from busway.gateway.executors.python.host.supervisor import Supervisor

PATIENCE = 120.0  # seconds; far more than anything here takes


def event(data=b"null", *, binary=False, **fields):
    return Event(
        **{
            "seq": 1, "id": "e1", "source": "/test", "type": "test.happened", "time": 1_700_000_000_000_000,
            "data": data, "binary": binary, "correlationid": "e1", "root": 1, **fields,
        }
    )  # fmt: skip


def write(folder, **files):
    """Put files there, each at once: nobody reads half of one."""
    for name, source in files.items():
        new = folder / f".{name}.new"
        new.write_text(textwrap.dedent(source))
        new.replace(folder / f"{name}.py")


class Bench:
    """The supervisor with a record of what it told."""

    def __init__(self, folder, pool="process", on_catalog=None, **options):
        self.pool = pool
        self._on_catalog = on_catalog
        self.told = []
        self.rooms = 0
        self.waiting = []
        self.handed = []
        self._changed = asyncio.Event()
        self.credits = True
        options = {"processes": 2, "threads": 8, "max_result_bytes": 1 << 20, "grace": 0.2, **options}
        self.supervisor = Supervisor(handlers=folder, default_pool=pool, **options)
        self.supervisor.listen(self._hear)
        self.catalog = []

    def _hear(self, told):
        self.told += [report for report in told if not isinstance(report, Room)]
        for report in told:
            if isinstance(report, Room):
                self._room()
            if isinstance(report, Partial) and self.credits:
                self.supervisor.credit(report.token, len(report.data))
        self._changed.set()

    def _room(self):
        self.rooms += 1
        waiting, self.waiting = self.waiting, []
        self.waiting = [a for a in waiting if not self.supervisor.offer(a)]

    async def follow(self):
        """Take new code over, once `on_catalog` has returned."""
        while True:
            catalog = await self.supervisor.renewed()
            if self._on_catalog is not None:
                await self._on_catalog(catalog)
            self.supervisor.take_over()

    def kind(self, target):
        kinds = {t.target: t.kind for file in self.catalog for t in file.targets}
        return kinds.get(target, "function")

    def hand(
        self,
        target,
        data=None,
        *,
        timeout=PATIENCE,
        alone=False,
        run=None,
        pool=None,
        memory=None,
        exclusive=False,
        revision=1,
        **fields,
    ):
        token = secrets.randbits(62) + 1
        self.handed.append(token)
        assignment = Assignment(
            token=token, run=run or token, attempt=1, handler=target.partition(":")[2], revision=revision,
            target=target, kind=self.kind(target), pool=pool or self.pool, timeout=timeout, alone=alone,
            memory=memory, exclusive=exclusive, event=event(json.dumps(data).encode(), **fields),
        )  # fmt: skip
        if not self.supervisor.offer(assignment):
            self.waiting.append(assignment)
        return token

    async def until(self, condition, patience=PATIENCE):
        deadline = time.monotonic() + patience
        while not (found := condition()):
            assert time.monotonic() < deadline, (
                f"waited for {condition}; processes: {children()}; told: {self.told[-5:]}"
            )
            self._changed.clear()
            try:
                await asyncio.wait_for(self._changed.wait(), 0.02)
            except TimeoutError:
                continue
        return found

    def reports(self, token, kind):
        return [report for report in self.told if report.token == token and isinstance(report, kind)]

    async def end(self, token):
        return (await self.until(lambda: self.reports(token, Ended | Returned)))[0]

    async def started(self, token):
        return (await self.until(lambda: self.reports(token, Started)))[0]

    async def run(self, target, data=None, **options):
        """Have it run to its end; what a worker that gives way hands back goes to another."""
        while isinstance(ended := await self.end(self.hand(target, data, **options)), Returned):
            continue
        return ended

    def partials(self, token):
        return self.reports(token, Partial)

    def pids(self, pool=None):
        found = self.supervisor.status()["pools"].get(pool or self.pool, {"workers": []})
        return [worker["pid"] for worker in found["workers"]]

    async def clear(self):
        """End what runs, and forget all that was told."""
        self.waiting, self.credits = [], True
        for token in self.handed:
            self.supervisor.cancel(token)
        pools = self.supervisor.status()["pools"]
        await self.until(lambda: not any(self.supervisor.status()["pools"][p]["running"] for p in pools))
        self.handed.clear()
        self.told.clear()

    def zygote(self):
        return self.supervisor.status()["zygote"]["pid"]


def children():
    """All processes that there are below this one."""
    return {child for child in psutil.Process().children(recursive=True) if not _of_a_server(child)}


def _of_a_server(process):
    """Whether it belongs to a PostgreSQL server that other tests share, which begins and ends processes."""
    try:
        return process.name() == "postgres"
    except psutil.NoSuchProcess:
        return False


@asynccontextmanager
async def started(folder, pool="process", *, follow=True, **options):
    made, before = Bench(folder, pool, **options), tasks_of_busway()
    try:
        made.catalog = await made.supervisor.start()
        following = asyncio.create_task(made.follow()) if follow else None
        yield made
        if following:
            following.cancel()
    finally:
        await made.supervisor.stop()
    assert tasks_of_busway() <= before


def tasks_of_busway():
    """All tasks that code of Busway runs in this loop."""
    ours = f"{os.sep}busway{os.sep}gateway{os.sep}"
    return {task for task in asyncio.all_tasks() if ours in task.get_coro().cr_code.co_filename}


@asynccontextmanager
async def bench(folder, pool="process", **options):
    before = children()
    async with started(folder, pool, **options) as made:
        yield made
    # What is being killed, and what a killed zygote had just started, may be seen a little longer.
    await made.until(lambda: children() <= before)


class Shared:
    """Benches for tests that leave them as they were, one a pool; each starts when it is first needed."""

    def __init__(self, folder, **options):
        self._folder, self._options = folder, options
        self._before = children()
        self._runner = asyncio.Runner()
        self._stack = AsyncExitStack()
        self._benches = {}

    def drive(self, scenario, pool="process"):
        """Run a scenario on the pool's bench, and end what it left behind."""
        self._runner.run(self._drive(scenario, pool))

    async def _drive(self, scenario, pool):
        if pool not in self._benches:
            made = await self._stack.enter_async_context(started(self._folder, pool, **self._options))
            self._benches[pool] = made
        made = self._benches[pool]
        processes = self._options.get("processes", 2) if pool == "process" else 1
        await made.until(lambda: len(made.pids()) == processes)
        try:
            await scenario(made)
        finally:
            await made.clear()

    async def _close(self):
        await self._stack.aclose()
        for made in self._benches.values():
            await made.until(lambda: children() <= self._before)

    def close(self):
        self._runner.run(self._close())
        self._runner.close()


def drive(scenario, *arguments, **options):
    async def main():
        async with bench(*arguments, **options) as made:
            await scenario(made)

    asyncio.run(main())
