"""Dramatiq with Redis: the actor for its workers, and the program that sends messages and fetches results."""

from __future__ import annotations

import os
import time

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

from benchmarks.peers.answering import answer

URL = os.environ["REDIS_URL"]
PATIENCE = 60_000  # milliseconds for any result

broker = RedisBroker(url=URL)
broker.add_middleware(Results(backend=RedisBackend(url=URL)))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def noop() -> None:
    pass


def once(tasks: int) -> dict[str, float]:
    """Enqueue a number of messages and fetch all results."""
    began = time.perf_counter()
    group = dramatiq.group(noop.message() for _ in range(tasks)).run()
    fetched = sum(1 for _ in group.get_results(block=True, timeout=PATIENCE))
    seconds = time.perf_counter() - began
    assert fetched == tasks, f"{tasks} tasks brought {fetched} results"
    return {"events_per_s": tasks / seconds}


def main() -> None:
    once(1)  # wait for the workers
    once(200)
    answer(once)


if __name__ == "__main__":
    main()
