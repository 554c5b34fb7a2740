"""A real supervisor over a folder of handler files, driven by the tests."""

from __future__ import annotations

import asyncio
import json
import secrets
import textwrap
import time
from contextlib import asynccontextmanager

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
    for name, source in files.items():
        (folder / f"{name}.py").write_text(textwrap.dedent(source))


class Bench:
    """The supervisor with a record of what it told."""

    def __init__(self, folder, pool="process", **options):
        self.pool = pool
        self.told = []
        self.rooms = 0
        self.waiting = []
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
        revision=1,
        **fields,
    ):
        token = secrets.randbits(62) + 1
        assignment = Assignment(
            token=token, run=run or token, attempt=1, handler=target.partition(":")[2], revision=revision,
            target=target, kind=self.kind(target), pool=pool or self.pool, timeout=timeout, alone=alone,
            memory=memory, event=event(json.dumps(data).encode(), **fields),
        )  # fmt: skip
        if not self.supervisor.offer(assignment):
            self.waiting.append(assignment)
        return token

    async def until(self, condition, patience=PATIENCE):
        deadline = time.monotonic() + patience
        while not (found := condition()):
            assert time.monotonic() < deadline, f"waited for {condition}; told: {self.told[-5:]}"
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
        workers = self.supervisor.status()["pools"][pool or self.pool]["workers"]
        return [worker["pid"] for worker in workers]

    def zygote(self):
        return self.supervisor.status()["zygote"]["pid"]


@asynccontextmanager
async def bench(folder, pool="process", **options):
    before = set(psutil.Process().children(recursive=True))
    made = Bench(folder, pool, **options)
    try:
        made.catalog = await made.supervisor.start()
        yield made
    finally:
        await made.supervisor.stop()
        # What is being killed, and what a killed zygote had just started, may be seen a little longer.
        me = psutil.Process()
        await made.until(lambda: set(me.children(recursive=True)) <= before)


def drive(scenario, *arguments, **options):
    async def main():
        async with bench(*arguments, **options) as made:
            await scenario(made)

    asyncio.run(main())
