"""Memory: what one attempt may take, and workers that grow from attempt to attempt."""

from __future__ import annotations

import os
import re

import psutil
import pytest
import workers_kit as kit
from busway.domain.run import Outcome
from busway.gateway.executors.port import Ended
from busway.gateway.executors.python.host.growth import Growth, GrowthMonitor
from busway.gateway.executors.python.wire.memory import MIB, resident

CODE = """
    import asyncio, os, time

    leaked = []

    def takes(event):
        block = bytearray(event.data["mib"] << 20)
        time.sleep(event.data.get("seconds", 0))
        return os.getpid()

    async def takes_async(event):
        block = bytearray(event.data["mib"] << 20)
        await asyncio.sleep(event.data.get("seconds", 0))

    def takes_more_and_more(event):
        while True:
            leaked.append(bytearray(4 << 20))
            time.sleep(0.05)

    def leaks(event):
        leaked.append(bytearray(event.data << 20))
        return os.getpid()

    def leaks_slowly(event):
        time.sleep(0.01)
        return leaks(event)

    def who(event):
        return os.getpid()

    def waits_for(event):
        while not os.path.exists(event.data):
            time.sleep(0.005)
        return os.getpid()
"""
WITH_SETUP = """
    import time
    model = []
    def setup(): model.append(bytearray(200 << 20))
    def uses(event):
        block = bytearray(event.data << 20)
        time.sleep(1)
        return len(model)
"""


@pytest.fixture
def folder(tmp_path):
    kit.write(tmp_path, f=CODE, heavy=WITH_SETUP)
    return tmp_path


def pools(bench):
    return bench.supervisor.status()["pools"]


# -- the limit of one attempt


@pytest.mark.fault
@pytest.mark.parametrize("target", ["takes", "takes_async"])
def test_an_attempt_over_its_limit_is_ended_and_tells_what_it_used(folder, target):
    async def scenario(bench):
        ended = await bench.run(f"f:{target}", {"mib": 210, "seconds": 30}, memory=64)
        assert (ended.outcome, ended.error.type) == (Outcome.FAILED, "MemoryExceeded")
        used = re.match(r"used (\d+) MiB, the limit is 64 MiB: ", ended.error.message)
        assert 64 < int(used[1]) <= 212
        assert f"in {target}" in ended.error.traceback
        assert int(used[1]) - 1 < ended.peak_memory / MIB <= int(used[1])
        await bench.until(lambda: not psutil.pid_exists(ended.worker))
        assert (await bench.run("f:takes", {"mib": 1}, memory=64)).outcome is Outcome.SUCCEEDED

    kit.drive(scenario, folder)


@pytest.mark.fault
def test_one_that_takes_more_and_more_is_ended_near_its_limit(folder):
    async def scenario(bench):
        ended = await bench.run("f:takes_more_and_more", memory=100)
        assert ended.error.type == "MemoryExceeded"
        assert 100 * MIB < ended.peak_memory < 400 * MIB
        assert "in takes_more_and_more" in ended.error.traceback

    kit.drive(scenario, folder)


@pytest.mark.fault
def test_nobody_else_notices_an_attempt_that_takes_too_much(folder):
    async def scenario(bench):
        others = [bench.hand("f:waits_for", str(folder / "sign")) for _ in range(2)]
        for token in others:
            await bench.started(token)
        assert (await bench.run("f:takes", {"mib": 100, "seconds": 30}, memory=10)).outcome is Outcome.FAILED
        (folder / "sign").touch()
        assert {(await bench.end(token)).outcome for token in others} == {Outcome.SUCCEEDED}

    kit.drive(scenario, folder)


def test_peaks_below_the_limit_are_reported_and_never_cost_the_worker(folder):
    async def scenario(bench):
        ended = [await bench.run("f:takes", {"mib": 50, "seconds": 1}, memory=64) for _ in range(3)]
        assert {e.outcome for e in ended} == {Outcome.SUCCEEDED}
        assert len({e.worker for e in ended}) == 1
        assert all(50 <= e.peak_memory / MIB < 52 for e in ended)

    kit.drive(scenario, folder)


def test_what_setup_takes_is_not_the_attempts(folder):
    async def scenario(bench):
        ended = await bench.run("heavy:uses", 20, memory=64)
        assert (ended.outcome, ended.data) == (Outcome.SUCCEEDED, b"1")
        assert 20 <= ended.peak_memory / MIB < 30

    kit.drive(scenario, folder)


def test_such_a_handler_has_workers_of_its_own_one_attempt_each_and_no_more_than_the_pool(folder):
    async def scenario(bench):
        signs = [folder / f"sign{n}" for n in range(5)]
        tokens = [bench.hand("f:waits_for", str(sign), memory=64) for sign in signs]
        for token, sign in zip(tokens, signs, strict=True):
            await bench.started(token)
            assert pools(bench)["memory:waits_for"]["running"] <= 2
            sign.touch()
        own = {(await bench.end(token)).worker for token in tokens}
        assert len(own) == 2
        assert own.isdisjoint(bench.pids("process"))
        assert (await bench.run("f:who", memory=64)).worker not in own, "another handler, other workers"

    kit.drive(scenario, folder)


def test_its_workers_end_when_there_is_no_work(folder, monkeypatch):
    monkeypatch.setattr("busway.gateway.executors.python.host.pool._LINGER", 0.3)

    async def scenario(bench):
        await bench.until(lambda: len(bench.pids("process")) == 2)
        before = set(bench.pids("process"))
        pid = (await bench.run("f:who", memory=64)).worker
        await bench.until(lambda: not psutil.pid_exists(pid))
        await bench.until(lambda: "memory:who" not in pools(bench))
        assert (await bench.run("f:who", memory=64)).outcome is Outcome.SUCCEEDED
        assert set(bench.pids("process")) == before

    kit.drive(scenario, folder)


def test_an_attempt_that_must_be_alone_keeps_its_limit(folder):
    async def scenario(bench):
        ended = await bench.run("f:takes", {"mib": 100, "seconds": 30}, memory=10, alone=True)
        assert ended.error.type == "MemoryExceeded"

    kit.drive(scenario, folder)


# -- growth from attempt to attempt


@pytest.mark.parametrize("pool", ["process", "thread"])
def test_a_worker_that_grows_is_replaced_the_new_one_up_first(folder, pool):
    async def scenario(bench):
        first = (await bench.run("f:leaks", 1)).worker
        while first in bench.pids():
            assert (await bench.run("f:leaks", 10)).outcome is Outcome.SUCCEEDED
            ready = [w for w in pools(bench)[pool]["workers"] if w["state"] == "ready"]
            assert len(ready) >= 1
        assert len([e for e in bench.told if isinstance(e, Ended) and e.worker == first]) >= 5

    kit.drive(scenario, folder, pool, processes=1, growth=40 * MIB)


@pytest.mark.parametrize("pool", ["process", "thread"])
def test_peaks_that_are_given_back_recycle_nobody(folder, pool):
    async def scenario(bench):
        pids = {(await bench.run("f:takes", {"mib": 100})).worker for _ in range(20)}
        assert len(pids) == 1

    kit.drive(scenario, folder, pool, processes=1, growth=40 * MIB)


def test_what_a_file_loads_once_recycles_nobody(folder):
    async def scenario(bench):
        pids = {(await bench.run(t, 1)).worker for t in ["f:leaks", "heavy:uses", "heavy:uses", "heavy:uses"]}
        assert len(pids) == 1

    kit.drive(scenario, folder, processes=1, growth=40 * MIB)


@pytest.mark.fault
@pytest.mark.parametrize("pool", ["process", "thread"])
def test_recycling_after_every_attempt_under_load_loses_nothing(folder, pool):
    async def scenario(bench):
        ended = []
        while len({e.worker for e in ended}) < 20:
            tokens = [bench.hand("f:leaks_slowly", 1) for _ in range(20)]
            ended += [await bench.end(token) for token in tokens]
        assert {e.outcome for e in ended} == {Outcome.SUCCEEDED}
        assert len(ended) == len([e for e in bench.told if isinstance(e, Ended)])
        await bench.until(lambda: len(bench.pids()) == (2 if pool == "process" else 1))

    kit.drive(scenario, folder, pool, growth=0)


def test_growth_counts_from_what_is_left_after_each_handlers_first_attempt():
    growth = Growth(100)
    growth.first("a")
    assert not growth.idle(1000)
    assert growth.known == {"a"}
    assert not growth.idle(1099)
    growth.first("b")
    assert not growth.idle(5000)
    assert not growth.idle(5099)
    assert growth.idle(5100)


def test_a_worker_that_is_never_idle_is_judged_by_its_lowest_of_ten_looks():
    growth = Growth(100)
    growth.first("a")
    growth.idle(1000)
    assert not any(growth.busy(held) for held in [2000] * 9 + [1050])
    assert not any(growth.busy(held) for held in [2000] * 9)
    assert growth.busy(1100)


def test_after_quick_attempts_memory_is_looked_at_seldom():
    scales = GrowthMonitor(0)
    looks = 0
    for _ in range(2560):
        scales.answered("a", [0.0001])
        looks += scales.idle(os.getpid())
    assert looks == 10


def test_the_memory_of_a_process_that_is_gone_is_nothing():
    assert resident(None) is None
    assert resident(os.getpid()) > MIB
