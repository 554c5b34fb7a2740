"""Both pools, the supervisor alone, beside the executors of the standard library in the same run.

Measured from an event loop (uvloop), as a gateway would use each: calls a second with many under way,
and the time of one at a time. What is called: nothing, 5 ms of plain Python, 10 ms of waiting.

    .venv/bin/python benchmarks/pools.py [SECONDS] [ROUNDS]
"""

from __future__ import annotations

import asyncio
import os
import platform
import secrets
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import AsyncExitStack
from pathlib import Path

import uvloop

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from app.domain.event import Event
from app.workers.base import Assignment, Ended, Returned, WorkerReport
from app.workers.supervisor import Supervisor

CPUS = os.cpu_count() or 1
THREADS = 32
UNDER_WAY = {"noop": 256, "burn": 16, "wait": 128, "wait_async": 128}
CODE = """
import asyncio, time

def noop(event):
    return None

def burn(event):
    end = time.thread_time() + 0.005
    while time.thread_time() < end:
        pass

def wait(event):
    time.sleep(0.01)

async def wait_async(event):
    await asyncio.sleep(0.01)
"""
DATA = b'{"item":"book","quantity":2}'
EVENT = Event(seq=1, id="e", source="/", type="bench", time=0, data=DATA, correlationid="e", root=1)
TARGETS: dict[str, Callable[[object], object]] = {}
exec(CODE, TARGETS)

Call = Callable[[str], Awaitable[object]]


def perform(name: str) -> object:
    return TARGETS[name](None)


class Pool:
    """A supervisor with one pool; a call hands an attempt over and waits for its outcome."""

    def __init__(self, folder: Path, pool: str) -> None:
        self.pool = pool
        self.futures: dict[int, asyncio.Future[object]] = {}
        self.waiting: list[Assignment] = []
        self.supervisor = Supervisor(
            handlers=folder,
            processes=CPUS,
            threads=THREADS,
            max_result_bytes=1 << 20,
            sink=self._told,
            on_room=self._room,
            default_pool=pool,
        )

    def _told(self, told: list[WorkerReport]) -> None:
        for report in told:
            if isinstance(report, Ended | Returned):
                self.futures.pop(report.token).set_result(None)

    def _room(self) -> None:
        waiting, self.waiting = self.waiting, []
        for at, assignment in enumerate(waiting):
            if not self.supervisor.offer(assignment):
                self.waiting += waiting[at:]
                return

    def call(self, name: str) -> asyncio.Future[object]:
        token = secrets.randbits(62) + 1
        assignment = Assignment(
            token=token,
            run=token,
            attempt=1,
            handler=name,
            revision=1,
            target=f"bench:{name}",
            kind="coroutine" if name.endswith("async") else "function",
            pool=self.pool,
            timeout=60,
            event=EVENT,
        )
        future = self.futures[token] = asyncio.get_running_loop().create_future()
        if self.waiting or not self.supervisor.offer(assignment):
            self.waiting.append(assignment)
        return future


async def rate(call: Call, name: str, seconds: float) -> float:
    """Calls a second with `UNDER_WAY` at once."""
    done, begun = 0, time.perf_counter()
    end = begun + seconds

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await call(name)
            done += 1

    await asyncio.gather(*(caller() for _ in range(UNDER_WAY[name])))
    return done / (time.perf_counter() - begun)


async def latency(call: Call, seconds: float) -> float:
    """The median of one no-op at a time, in microseconds."""
    taken = []
    end = time.perf_counter() + seconds
    while (begun := time.perf_counter()) < end:
        await call("noop")
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken) * 1e6


def executed(executor: Executor) -> Call:
    loop = asyncio.get_running_loop()
    return lambda name: loop.run_in_executor(executor, perform, name)


async def measure(seconds: float, rounds: int) -> None:
    async with AsyncExitStack() as stack:
        # First of all, and forked now: later this process has sockets that its children would share.
        processes = stack.enter_context(ProcessPoolExecutor(CPUS))
        await asyncio.gather(*(executed(processes)("wait") for _ in range(4 * CPUS)))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "bench.py").write_text(CODE)
        calls: dict[str, Call] = {}
        for pool in ("process", "thread"):
            made = Pool(folder, pool)
            await made.supervisor.start()
            stack.push_async_callback(made.supervisor.stop)
            calls[f"Busway, {pool} pool"] = made.call
        calls["`ProcessPoolExecutor`"] = executed(processes)
        calls["`run_in_executor`, threads"] = executed(stack.enter_context(ThreadPoolExecutor(THREADS)))
        report(list(calls), await compare(calls, seconds, rounds))


async def compare(calls: dict[str, Call], seconds: float, rounds: int) -> dict[tuple[str, str], list[float]]:
    """Turn about, so that what else the machine does befalls all alike."""
    found: dict[tuple[str, str], list[float]] = {}
    for _ in range(rounds):
        for who, call in calls.items():
            await rate(call, "noop", seconds / 4)  # warm
            found.setdefault((who, "p50"), []).append(await latency(call, seconds / 2))
        for name in UNDER_WAY:
            for who, call in calls.items():
                if name != "wait_async" or who.startswith("Busway"):
                    found.setdefault((who, name), []).append(await rate(call, name, seconds))
    return found


def report(names: list[str], found: dict[tuple[str, str], list[float]]) -> None:
    print(f"{CPUS} CPUs ({processor()}), Python {platform.python_version()}, {platform.system()}\n")
    print("| | no-op/s | no-op p50, µs | 5 ms of Python/s | 10 ms of sleep/s | 10 ms of `await`/s |")
    print("|---|---|---|---|---|---|")
    for name in names:
        row = []
        for what in ("noop", "p50", "burn", "wait", "wait_async"):
            values = found.get((name, what))
            row.append(f"{statistics.median(values):,.0f}" if values else "")
        print(f"| {name} | {' | '.join(row)} |")


def processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 0.8
    uvloop.run(measure(seconds, int(sys.argv[2]) if len(sys.argv) > 2 else 3))
