"""Attempts that take a moment stay together, and what turns out long among them holds nothing up."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import Counter

import psutil
import pytest
import workers_kit as kit
from busway.domain.run import Outcome
from busway.gateway.executors.port import Ended, Returned

CODE = """
    import os, threading, time

    def moment(event):
        if event.data == "fork":
            child = os.fork()
            return os.waitpid(child, 0)[1] if child else None
        if event.data == "exit":
            os._exit(3)
        time.sleep(event.data) if event.data else None
        return threading.get_ident()

    def short(event):
        end = time.perf_counter() + 0.0001
        while not event.data and time.perf_counter() < end:
            pass
        time.sleep(event.data) if event.data else None

    async def soon(event):
        pass

    def other(event):
        time.sleep(event.data) if event.data else None
"""
WARM = 1000  # attempts after which Busway knows that they take a moment
NAMES = ["moment", "moment", "other"]
THREADS = 8  # of the kit's thread pool
TRIES = 30  # how often this machine may be too busy for that


async def warm(bench, target="t:moment"):
    tokens = [bench.hand(target) for _ in range(WARM)]
    for token in tokens:
        await bench.end(token)


def ends(bench):
    ended = [report for report in bench.told if isinstance(report, Ended)]
    assert {report.outcome for report in ended} <= {Outcome.SUCCEEDED}
    return Counter(report.token for report in ended)


def test_they_fill_one_worker_before_the_next_gets_any(tmp_path):
    kit.write(tmp_path, t=CODE)

    async def scenario(bench):
        for _ in range(TRIES):
            await warm(bench)
            tokens = [bench.hand("t:moment") for _ in range(20)]
            if len({(await bench.end(token)).worker for token in tokens}) == 1:
                return
        raise AssertionError(f"20 attempts went to two workers {TRIES} times")

    kit.drive(scenario, tmp_path)


def test_the_thread_that_reads_makes_them_until_one_turns_out_long(tmp_path):
    kit.write(tmp_path, t=CODE)

    async def thread_of(bench, data=None):
        return int((await bench.run("t:moment", data)).data)

    async def scenario(bench):
        for _ in range(TRIES):
            await warm(bench)
            leader = await thread_of(bench)
            if [await thread_of(bench) for _ in range(5)] != [leader] * 5:
                continue
            long = bench.hand("t:moment", 1.0)
            next_ones = {await thread_of(bench) for _ in range(5)}
            if bench.reports(long, Ended):
                continue
            assert leader not in next_ones
            assert int((await bench.end(long)).data) == leader
            return
        raise AssertionError(f"they went to several threads, or waited behind the long one, {TRIES} times")

    kit.drive(scenario, tmp_path, "thread")


@pytest.mark.parametrize("what", ["fork", "exit", 20.0])
def test_what_one_of_them_does_to_its_worker_befalls_no_other(tmp_path, pool, what):
    """It forks, ends its process, or runs out of time, others before and behind it in the same worker."""
    kit.write(tmp_path, t=CODE)

    async def scenario(bench):
        await warm(bench)
        bench.told.clear()
        before = [bench.hand("t:moment") for _ in range(10)]
        bad = bench.hand("t:moment", what, timeout=0.3 if what == 20.0 else kit.PATIENCE)
        others = [*before, *[bench.hand("t:moment") for _ in range(10)]]
        error = (await bench.end(bad)).error
        assert (error and error.type) == {"fork": None, "exit": "WorkerDied", 20.0: "Timeout"}[what]
        for token in others:
            ended = await bench.end(token)
            assert isinstance(ended, Returned) or ended.outcome in {Outcome.SUCCEEDED, Outcome.LOST}
        assert (await bench.run("t:moment")).outcome is Outcome.SUCCEEDED
        told = Counter(report.token for report in bench.told if isinstance(report, Ended | Returned))
        assert set(told.values()) == {1}

    kit.drive(scenario, tmp_path, pool)


def test_somebody_reads_when_the_leader_and_all_other_threads_are_busy(tmp_path):
    kit.write(tmp_path, t=CODE)

    async def scenario(bench):
        for _ in range(TRIES):
            await warm(bench)
            await warm(bench, "t:short")
            long = [bench.hand("t:short", 3.0) for _ in range(2)]
            await asyncio.sleep(0.025)  # each has a thread then, and the gateway sends more for 25 ms yet
            long.append(bench.hand("t:moment", 3.0))
            await bench.started(long[-1])
            await bench.run("t:soon")
            if not any(bench.reports(token, Ended) for token in long):
                return
            for token in long:
                await bench.end(token)
        raise AssertionError(f"it was read when one of them was done, {TRIES} times")

    kit.drive(scenario, tmp_path, "thread", threads=2)


def test_whoever_leads_each_attempt_is_made_and_told_once(tmp_path):
    """The lead changes hands some dozens of times, often just when the thread that had it is done."""
    kit.write(tmp_path, t=CODE)
    seed = secrets.randbits(32)
    chance = random.Random(seed)
    print("seed", seed)

    async def scenario(bench):
        await warm(bench)
        for _ in range(80):
            events = [None] * 400  # so that they take a moment on average
            events[chance.randrange(400)] = chance.uniform(0.004, 0.012)
            bench.told.clear()
            tokens = [bench.hand(f"t:{chance.choice(NAMES)}", data) for data in events]
            await bench.until(lambda tokens=tokens: len(ends(bench)) >= len(tokens))
            assert {report.outcome for report in bench.told if isinstance(report, Ended)} == {
                Outcome.SUCCEEDED
            }
            assert ends(bench) == Counter(tokens)
        worker = psutil.Process(bench.pids()[0])
        assert worker.num_threads() < THREADS + 10, "those who led before do not lead again"
        assert worker.num_fds() < 40

    kit.drive(scenario, tmp_path, "thread")
