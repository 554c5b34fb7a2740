"""One of Busway's pools, only the supervisor: `supervisor process|thread`. Requests are lines of JSON."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

import uvloop
from busway.domain.event import Event
from busway.domain.run import Outcome
from busway.gateway.executors.port import Assignment, Ended, Room, WorkerReport
from busway.gateway.executors.python.host.supervisor import Supervisor

from benchmarks.peers import work
from benchmarks.peers.answering import answer
from benchmarks.peers.calling import measure

THREADS = 32
UNDER_WAY = 256
OTHERS = ("burn", "wait", "wait_async")
DATA = b'{"item":"book","quantity":2}'
EVENT = Event(seq=1, id="e", source="/", type="bench", time=0, data=DATA, correlationid="e", root=1)


class Pool:
    """A supervisor with one pool. A call starts an attempt and returns when its outcome is reported."""

    def __init__(self, handlers: Path, pool: str) -> None:
        self._pool = pool
        self._random = random.Random(secrets.randbits(128))
        self._futures: dict[int, asyncio.Future[None]] = {}
        self._waiting: list[Assignment] = []
        self.supervisor = Supervisor(
            handlers=handlers,
            processes=os.cpu_count() or 1,
            threads=THREADS,
            max_result_bytes=1 << 20,
            default_pool=pool,
        )
        self.supervisor.listen(self._told)

    def _told(self, told: list[WorkerReport]) -> None:
        for report in told:
            if isinstance(report, Ended):
                future = self._futures.pop(report.token)
                if report.outcome is Outcome.SUCCEEDED:
                    future.set_result(None)
                else:
                    future.set_exception(RuntimeError(f"an attempt {report.outcome}: {report.error}"))
            elif isinstance(report, Room):
                self._room()

    def _room(self) -> None:
        waiting, self._waiting = self._waiting, []
        for at, assignment in enumerate(waiting):
            if not self.supervisor.offer(assignment):
                self._waiting += waiting[at:]
                return

    def call(self, name: str) -> asyncio.Future[None]:
        """Start one attempt."""
        token = self._random.getrandbits(62) + 1  # as dispatch draws tokens
        assignment = Assignment(
            token=token,
            run=token,
            attempt=1,
            handler=name,
            revision=1,
            target=f"work:{name}",
            kind="coroutine" if name == "wait_async" else "function",
            pool=self._pool,
            timeout=60,
            event=EVENT,
        )
        future = self._futures[token] = asyncio.get_running_loop().create_future()
        if self._waiting or not self.supervisor.offer(assignment):
            self._waiting.append(assignment)
        return future


def main(pool: str) -> None:
    with tempfile.TemporaryDirectory() as name, asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        shutil.copy(work.__file__, name)
        made = Pool(Path(name), pool)
        runner.run(made.supervisor.start())
        try:
            answer(lambda effort: runner.run(measure(made.call, UNDER_WAY, OTHERS, effort)))
        finally:
            runner.run(made.supervisor.stop())


if __name__ == "__main__":
    main(sys.argv[1])
