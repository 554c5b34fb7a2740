"""An executor, used from an event loop as documented: `executors NAME`. Requests are lines of JSON."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor

import uvloop

from benchmarks.peers import work
from benchmarks.peers.answering import answer
from benchmarks.peers.calling import Call, measure

CPUS = os.cpu_count() or 1
THREADS = 32
UNDER_WAY = {
    "ProcessPoolExecutor": 64,
    "run_in_executor": 256,
    "pebble": 256,
    "loky": 16,
}  # the best value for each
OTHERS = ("burn", "wait")


def processes() -> Executor:
    return ProcessPoolExecutor(CPUS)


def threads() -> Executor:
    return ThreadPoolExecutor(THREADS)


def pebble() -> Executor:
    from pebble import ProcessPool  # noqa: PLC0415 - only the peers' environment has it

    return ProcessPool(max_workers=CPUS)  # type: ignore[no-any-return]


def loky() -> Executor:
    from loky import get_reusable_executor  # noqa: PLC0415 - as above

    # By default its workers end after ten seconds without work; the turns of others take longer.
    return get_reusable_executor(max_workers=CPUS, timeout=600)  # type: ignore[no-any-return]


MAKE: dict[str, Callable[[], Executor]] = {
    "ProcessPoolExecutor": processes,
    "run_in_executor": threads,
    "pebble": pebble,
    "loky": loky,
}


def calling(name: str, executor: Executor) -> Call:
    """Return the function that submits a task: pebble's `submit` takes a timeout before the arguments."""
    loop = asyncio.get_running_loop()
    extra = (None,) if name == "pebble" else ()
    return lambda task: loop.run_in_executor(executor, getattr(work, task), *extra, None)


def main(name: str) -> None:
    others = OTHERS if name in {"ProcessPoolExecutor", "run_in_executor"} else ()
    executor = MAKE[name]()

    async def once(effort: float) -> dict[str, float]:
        return await measure(calling(name, executor), UNDER_WAY[name], others, effort)

    async def warm() -> None:
        call = calling(name, executor)
        await asyncio.gather(*(call("wait") for _ in range(4 * THREADS)))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(warm())
        answer(lambda effort: runner.run(once(effort)))
    close(executor)


def close(executor: Executor) -> None:
    if hasattr(executor, "shutdown"):
        executor.shutdown()
    else:
        executor.stop()
        executor.join()


if __name__ == "__main__":
    main(sys.argv[1])
