"""What a worker or zygote took is free when it has ended, without the collector of reference cycles."""

from __future__ import annotations

import gc
from collections import Counter

import psutil
import pytest
import workers_kit as kit
from busway.domain.run import Outcome
from busway.gateway.executors.python.host.attempt import SentAttempt
from busway.gateway.executors.python.host.generation import Generation
from busway.gateway.executors.python.host.launcher import Launcher
from busway.gateway.executors.python.host.link import Link
from busway.gateway.executors.python.host.worker import Worker

CODE = """
    import os, subprocess, sys

    def quick(event):
        return os.getpid()

    def dies(event):
        os._exit(3)

    def dies_with_a_child(event):
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
        os._exit(3)
"""
KINDS = (Worker, Link, Launcher, Generation, SentAttempt)


def held():
    return Counter(type(each).__name__ for each in gc.get_objects() if isinstance(each, KINDS))


@pytest.mark.fault
def test_workers_and_zygotes_that_died_are_freed(folder, pool):
    others = kit.children()  # what other tests left may end meanwhile

    async def scenario(bench):
        await whole(bench)
        gc.collect()  # what other tests left
        before, family = held(), len(kit.children() - others)
        gc.disable()
        try:
            for target in ("quick", "dies", "dies_with_a_child") * 3:
                outcome = (await bench.run(f"t:{target}", alone=True)).outcome
                assert outcome is (Outcome.SUCCEEDED if target == "quick" else Outcome.FAILED)
            for _ in range(2):
                for pid in bench.pids():
                    psutil.Process(pid).kill()
                zygote = bench.zygote()
                psutil.Process(zygote).kill()
                await bench.until(lambda zygote=zygote: bench.zygote() not in {zygote, None})
                await whole(bench)
            await bench.until(lambda: held() == before)
            await bench.until(lambda: len(kit.children() - others) == family)  # strays are reaped later
        finally:
            gc.enable()

    kit.drive(scenario, folder, pool, processes=2)


async def whole(bench):
    """Wait until all workers are there, and none that is about to end."""
    wanted = 2 if bench.pool == "process" else 1
    await bench.until(lambda: len(bench.pids()) == wanted and bench.zygote())
    await bench.run("t:quick")


def test_groups_of_workers_that_died_are_forgotten(folder):
    others = kit.children()

    async def scenario(bench):
        launcher = bench.supervisor._generation.launcher
        before = len(kit.children() - others)
        for target in ("quick", "dies", "dies_with_a_child") * 3:
            await bench.run(f"t:{target}", alone=True)
        await bench.until(lambda: len(kit.children() - others) == before)
        await bench.run("t:dies", alone=True)  # what is left is looked at when a worker ends
        await bench.until(lambda: launcher.groups == {*bench.pids()})

    kit.drive(scenario, folder)
