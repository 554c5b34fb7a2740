"""Procrastinate on PostgreSQL: the app for its workers, and the program that defers jobs and awaits them."""

from __future__ import annotations

import asyncio
import os
import time

import procrastinate

from benchmarks.peers.answering import answer

URL = os.environ["DATABASE_URL"]
BATCH = 1_000  # jobs of one statement
PATIENCE = 60.0  # seconds until all jobs are done
INTERVAL = 0.02  # seconds between two checks

app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=URL))


@app.task(name="noop")
async def noop() -> None:
    pass


async def opened() -> None:
    """Connect to the database."""
    await app.open_async()


async def done() -> int:
    """Return how many jobs have succeeded."""
    query = "SELECT count(*) AS n FROM procrastinate_jobs WHERE status = 'succeeded'"
    return int((await app.connector.execute_query_one_async(query))["n"])


async def once(tasks: int) -> float:
    """Defer a number of jobs, wait until all have succeeded, and return the seconds it took.

    Procrastinate stores no results: the status of a job is all that can be read.
    """
    before, began = await done(), time.perf_counter()
    for first in range(0, tasks, BATCH):
        await noop.batch_defer_async(*({} for _ in range(min(BATCH, tasks - first))))
    end = time.monotonic() + PATIENCE
    while (found := await done() - before) < tasks:
        assert time.monotonic() < end, f"{found} of {tasks} jobs succeeded"
        await asyncio.sleep(INTERVAL)
    return time.perf_counter() - began


def main() -> None:
    with asyncio.Runner() as runner:
        runner.run(opened())
        runner.run(once(1))  # wait for the workers
        runner.run(once(200))
        answer(lambda tasks: {"end_to_end_per_s": tasks / runner.run(once(tasks))})
        runner.run(app.connector.close_async())


if __name__ == "__main__":
    main()
