"""Celery with Redis: the app for its workers, and the program that enqueues tasks and fetches results."""

from __future__ import annotations

import os
import time

from celery import Celery

from benchmarks.peers.answering import answer

URL = os.environ["REDIS_URL"]
PATIENCE = 60.0  # seconds for any result
INTERVAL = 0.1  # seconds between two checks for results

app = Celery("bench", broker=URL, backend=URL)
# Celery's optimization guide recommends a large number for many short tasks.
app.conf.worker_prefetch_multiplier = 128


@app.task(name="noop")
def noop() -> None:
    pass


def once(tasks: int) -> dict[str, float]:
    """Enqueue a number of tasks and fetch all results.

    It uses one producer for all tasks and one MGET for all available results: both are faster than a group.
    """
    began = time.perf_counter()
    with app.producer_pool.acquire(block=True) as producer:
        sent = [noop.apply_async(producer=producer) for _ in range(tasks)]
    ids = [result.id for result in sent]
    fetched = dict(app.backend.get_many(ids, timeout=PATIENCE, interval=INTERVAL))
    seconds = time.perf_counter() - began
    succeeded = sum(result["status"] == "SUCCESS" for result in fetched.values())
    assert succeeded == tasks, f"{tasks} tasks brought {succeeded} results"
    for result in sent:
        result.forget()
    return {"events_per_s": tasks / seconds}


def main() -> None:
    noop.delay().get(timeout=PATIENCE)  # wait for the workers
    once(200)
    answer(once)


if __name__ == "__main__":
    main()
