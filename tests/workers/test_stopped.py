"""Attempts that were stopped together with the gateway: a paused container, SIGSTOP to all processes."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest
import workers_kit as kit
from busway.domain.run import Outcome
from busway.gateway.executors.python.host.shared import PeriodicCheck

from tests.marks import few

pytestmark = pytest.mark.fault

TIMEOUT = 2.0
CODE = """
    import asyncio, os, time

    def waits_for(event):
        while not os.path.exists(event.data):
            time.sleep(0.005)
        return "done"

    async def waits_async(event):
        while not os.path.exists(event.data):
            await asyncio.sleep(0.005)
        return "done"
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "handlers").mkdir()
    kit.write(tmp_path / "handlers", f=CODE)
    return tmp_path / "handlers"


def stop_all(bench, seconds):
    """Stop the workers, and the gateway, which is this process."""
    pids = [bench.zygote(), *bench.pids()]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(seconds)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


@pytest.mark.parametrize("pool", few(["process", "thread"], "process"))
@pytest.mark.parametrize("target", ["f:waits_for", "f:waits_async"])
def test_the_time_is_not_charged_to_an_attempt(folder, tmp_path, pool, target):
    async def scenario(bench):
        sign = tmp_path / "sign"
        token = bench.hand(target, str(sign), timeout=TIMEOUT)
        await bench.started(token)
        stop_all(bench, TIMEOUT + 0.5)
        await asyncio.sleep(0.1)  # several checks
        sign.touch()
        assert (await bench.end(token)).outcome is Outcome.SUCCEEDED

    kit.drive(scenario, folder, pool, processes=1)


@pytest.mark.parametrize("pool", few(["process", "thread"], "process"))
def test_the_attempt_still_has_its_timeout(folder, pool):
    async def scenario(bench):
        token = bench.hand("f:waits_for", "nothing", timeout=TIMEOUT)
        await bench.started(token)
        stop_all(bench, 1)
        ended = await bench.end(token)
        assert ended.error.type == "Timeout"
        assert ended.wall_time >= TIMEOUT + 1

    kit.drive(scenario, folder, pool, processes=1)


@pytest.mark.long
def test_a_cancelled_attempt_keeps_its_grace(folder):
    async def scenario(bench):
        token = bench.hand("f:waits_for", "nothing", timeout=0.01)
        await bench.until(lambda: bench.supervisor._shared.attempts[token].kill_at)
        before = bench.supervisor._shared.attempts[token].kill_at
        stop_all(bench, 1)
        attempt = bench.supervisor._shared.attempts[token]
        await asyncio.sleep(0.1)
        assert attempt.kill_at - before >= 500_000_000
        assert (await bench.end(token)).error.type == "Timeout"

    kit.drive(scenario, folder, processes=1, grace=3)


def test_a_check_that_was_stopped_never_runs_again():
    async def main():
        checks = []
        check = PeriodicCheck(lambda late: bool(checks.append(late)))
        check.start()
        check.stop()
        check.start()
        await asyncio.sleep(0.1)
        check.start()
        await asyncio.sleep(0.1)
        assert not checks

    asyncio.run(main())
