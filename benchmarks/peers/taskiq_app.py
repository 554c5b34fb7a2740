"""Taskiq with Redis: the broker for its workers, and the program that enqueues tasks and fetches results."""

from __future__ import annotations

import asyncio
import os
import time

from taskiq import AsyncTaskiqTask
from taskiq_redis import ListQueueBroker, RedisAsyncResultBackend

from benchmarks.peers.answering import answer

URL = os.environ["REDIS_URL"]
AT_ONCE = 100  # tasks enqueued, or results fetched, by one gather
PATIENCE = 60.0  # seconds for any result
INTERVAL = 0.02  # seconds between two checks for a result

broker = ListQueueBroker(URL).with_result_backend(RedisAsyncResultBackend(URL, result_ex_time=600))


@broker.task(task_name="noop")
async def noop() -> None:
    pass


async def round_trips(tasks: int) -> float:
    """Enqueue a number of tasks, fetch all results, and return the seconds it took."""
    began = time.perf_counter()
    sent: list[AsyncTaskiqTask[None]] = []
    for first in range(0, tasks, AT_ONCE):
        sent += await asyncio.gather(*(noop.kiq() for _ in range(min(AT_ONCE, tasks - first))))
    fetched = 0
    for first in range(0, tasks, AT_ONCE):
        some = sent[first : first + AT_ONCE]
        await some[-1].wait_result(INTERVAL, timeout=PATIENCE)  # one check instead of a hundred
        results = await asyncio.gather(*(task.wait_result(INTERVAL, timeout=PATIENCE) for task in some))
        fetched += sum(not result.is_err for result in results)
    seconds = time.perf_counter() - began
    assert fetched == tasks, f"{tasks} tasks brought {fetched} results"
    return seconds


def main() -> None:
    with asyncio.Runner() as runner:
        runner.run(broker.startup())
        runner.run(round_trips(1))  # wait for the workers
        runner.run(round_trips(200))
        answer(lambda tasks: {"events_per_s": tasks / runner.run(round_trips(tasks))})
        runner.run(broker.shutdown())


if __name__ == "__main__":
    main()
