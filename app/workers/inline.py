"""Run sync targets in the calling thread: the main thread of a worker, or one of its pool."""

from __future__ import annotations

import asyncio
import time
from types import CoroutineType, GeneratorType
from typing import Any

from app.workers.cputime import CpuTime
from app.workers.invocation import Invocation
from app.workers.lifecycle import Await, prepare

_FIRST_NAP, _LONGEST_NAP = 0.0005, 0.02  # seconds


def perform(invocation: Invocation, wait: Await, cpu_time: CpuTime) -> None:
    """Make one attempt, whatever its target does short of killing the process.

    `cpu_time`: of the attempts that this thread makes.
    """
    if not invocation.begin():
        return
    try:
        entry = invocation.entry()
        if not entry.module.ready:
            prepare(entry.module, wait)
        value = invocation.invoke(entry)
        if isinstance(value, GeneratorType):
            value = _drive(invocation, value)
        elif isinstance(value, CoroutineType):  # a wrapper hid that its function is async
            value = asyncio.run(value)
        ended = invocation.succeeded(value)
    except BaseException as problem:
        ended = invocation.failed(problem)
    invocation.finish(ended, cpu_time)


def _drive(invocation: Invocation, generator: GeneratorType[Any, None, Any]) -> Any:
    try:
        while True:
            _await_room(invocation)
            invocation.emit(next(generator))
            invocation.check_wanted()
    except StopIteration as end:
        return end.value
    finally:
        generator.close()


def _await_room(invocation: Invocation) -> None:
    # Credit arrives in shared memory: nobody else in this worker reads its socket now.
    nap = _FIRST_NAP
    while not invocation.has_room():
        invocation.check_wanted()
        time.sleep(nap)
        nap = min(nap * 2, _LONGEST_NAP)
