"""What handler code does to its worker, and what others notice of it: nothing."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal

import psutil
import pytest
import uvloop
import workers_kit as kit
from busway.domain.run import Outcome
from busway.gateway.executors.port import Ended, Gone, Returned

pytestmark = pytest.mark.fault

CODE = """
    import asyncio, ctypes, os, signal, subprocess, sys, threading, time

    def fine(event): return event.data
    def who(event): return os.getpid()

    def waits_for(event):
        while not os.path.exists(event.data):
            time.sleep(0.005)
        return os.getpid()

    def sleeps(event):
        time.sleep(event.data)
        return "slept"
    async def sleeps_async(event):
        try:
            await asyncio.sleep(event.data)
        except asyncio.CancelledError:
            print("cancelled")
            raise

    def spins(event):
        while True: pass
    async def blocks_the_loop(event):
        time.sleep(1000)

    def polite(event, ctx):
        while not ctx.cancelled:
            time.sleep(0.005)
        return "left"

    def exits(event):
        os._exit(3)

    async def waits_async(event):
        yield os.getpid()
        while not os.path.exists(event.data):
            await asyncio.sleep(0.005)
        yield "done"

    async def exits_async(event):
        await asyncio.sleep(0)
        os._exit(3)

    def segfaults(event):
        inner()

    def inner():
        ctypes.string_at(0)

    def kills_itself(event):
        os.kill(os.getpid(), signal.SIGKILL)

    def closes_everything(event):
        os.closerange(3, 256)
        time.sleep(1000)

    def leaves_a_child(event):
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])
        return child.pid

    def hangs_with_a_child(event, ctx):
        ctx.progress(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"]).pid)
        time.sleep(1000)

    def forks(event):
        if os.fork() == 0:
            print("in the copy")
            return "copy"
        return "worker"

    def forks_and_yields(event):
        mine = os.fork()
        yield bool(mine)
        return bool(mine)

    def writes_raw(event):
        os.write(1, b"raw line\\n" * event.data)
"""

TWO = ["process", "thread"]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "handlers").mkdir()
    kit.write(tmp_path / "handlers", f=CODE)
    return tmp_path / "handlers"


@pytest.fixture
def sign(tmp_path):
    """A file for which handlers wait; not there yet."""
    return tmp_path / "sign"


@pytest.mark.parametrize("pool", TWO)
@pytest.mark.parametrize(
    ("target", "cause"),
    [
        ("exits", "exited with status 3"),
        ("exits_async", "exited with status 3"),
        ("segfaults", "killed by SIGSEGV"),
        ("kills_itself", "killed by SIGKILL"),
    ],
)
def test_a_worker_that_dies_with_one_attempt_is_charged_to_it_and_replaced(folder, pool, target, cause):
    async def scenario(bench):
        ended = await bench.run(f"f:{target}")
        assert (ended.outcome, ended.error.type) == (Outcome.FAILED, "WorkerDied")
        assert ended.error.message.startswith(cause)
        assert not ended.alone
        assert (await bench.run("f:fine", 1)).outcome is Outcome.SUCCEEDED
        assert ended.worker not in bench.pids()

    kit.drive(scenario, folder, pool)


def test_a_worker_whose_code_closes_our_socket_is_of_no_use_and_replaced(folder):
    async def scenario(bench):
        ended = await bench.run("f:closes_everything")
        assert (ended.outcome, ended.error.type) == (Outcome.FAILED, "WorkerDied")
        assert (await bench.run("f:fine", 1)).outcome is Outcome.SUCCEEDED

    kit.drive(scenario, folder)


@pytest.mark.parametrize("pool", TWO)
def test_a_crash_in_c_tells_where_the_python_code_was(folder, pool):
    async def scenario(bench):
        stack = (await bench.run("f:segfaults")).error.traceback
        assert "in inner" in stack
        assert "in segfaults" in stack

    kit.drive(scenario, folder, pool)


def test_other_workers_notice_nothing_of_a_death(folder, sign):
    async def scenario(bench):
        slow = bench.hand("f:waits_for", str(sign))
        await bench.started(slow)
        died = await bench.run("f:exits")
        sign.touch()
        ended = await bench.end(slow)
        assert ended.outcome is Outcome.SUCCEEDED
        assert ended.worker != died.worker

    kit.drive(scenario, folder)


def test_of_several_attempts_in_a_dying_host_all_are_lost_and_alone_the_culprit_is_charged(folder):
    async def scenario(bench):
        waiting = [bench.hand("f:sleeps", 30) for _ in range(3)]
        for token in waiting:
            await bench.started(token)
        killer = bench.hand("f:exits")
        ended = [await bench.end(token) for token in [*waiting, killer]]
        assert {(e.outcome, e.alone) for e in ended} == {(Outcome.LOST, True)}
        again = await bench.run("f:exits", alone=True)
        assert (again.outcome, again.error.type) == (Outcome.FAILED, "WorkerDied")
        innocent = await bench.run("f:fine", 5, alone=True)
        assert (innocent.outcome, innocent.data) == (Outcome.SUCCEEDED, b"5")
        assert innocent.worker not in bench.pids("process")

    kit.drive(scenario, folder, "thread")


def test_an_attempt_alone_has_a_worker_that_ends_after_it(folder):
    async def scenario(bench):
        first = bench.hand("f:who", alone=True)
        second = bench.hand("f:who", alone=True)
        pids = {(await bench.end(token)).worker for token in (first, second)}
        assert len(pids) == 2
        await bench.until(lambda: not any(psutil.pid_exists(pid) for pid in pids))

    kit.drive(scenario, folder)


@pytest.mark.parametrize("pool", TWO)
@pytest.mark.parametrize("target", ["spins", "sleeps", "blocks_the_loop"])
def test_an_attempt_that_ignores_its_timeout_is_killed_and_tells_where_it_was(folder, pool, target):
    async def scenario(bench):
        ended = await bench.run(f"f:{target}", 1000, timeout=0.1)
        assert (ended.outcome, ended.error.type) == (Outcome.FAILED, "Timeout")
        assert ended.error.message == "ran longer than 0.1 s"
        assert f"in {target}" in ended.error.traceback
        assert (await bench.run("f:fine", 1)).outcome is Outcome.SUCCEEDED
        assert not psutil.pid_exists(ended.worker)

    kit.drive(scenario, folder, pool)


@pytest.mark.parametrize("pool", TWO)
@pytest.mark.parametrize("target", ["polite", "sleeps_async"])
def test_an_attempt_that_heeds_its_timeout_fails_all_the_same_but_its_worker_lives(folder, pool, target):
    async def scenario(bench):
        ended = await bench.run(f"f:{target}", 1000, timeout=0.1)
        assert (ended.outcome, ended.error.type, ended.data) == (Outcome.FAILED, "Timeout", None)
        assert (await bench.run("f:fine", 1)).outcome is Outcome.SUCCEEDED
        assert psutil.pid_exists(ended.worker)

    kit.drive(scenario, folder, pool, grace=10)


def test_in_a_shared_host_the_overdue_fails_at_once_and_siblings_finish(folder, sign):
    async def scenario(bench):
        sibling = bench.hand("f:waits_for", str(sign))
        await bench.started(sibling)
        ended = await bench.run("f:sleeps", 1000, timeout=0.1)
        assert (ended.error.type, bench.reports(sibling, Ended)) == ("Timeout", [])
        assert "in sleeps" in ended.error.traceback
        late = await bench.run("f:who")
        assert late.worker != ended.worker, "the host takes no new work, a replacement does"
        sign.touch()
        assert (await bench.end(sibling)).outcome is Outcome.SUCCEEDED
        await bench.until(lambda: not psutil.pid_exists(ended.worker))

    kit.drive(scenario, folder, "thread")


def test_an_overdue_attempt_that_goes_on_lingers_until_its_host_is_dead(folder, sign):
    async def scenario(bench):
        sibling = bench.hand("f:waits_for", str(sign))
        await bench.started(sibling)
        overdue = bench.hand("f:sleeps", 1000, timeout=0.1)
        ended = await bench.end(overdue)
        assert ended.lingers
        assert bench.reports(overdue, Gone) == []
        sign.touch()
        (gone,) = await bench.until(lambda: bench.reports(overdue, Gone))
        assert not psutil.pid_exists(ended.worker)
        assert bench.told.index(bench.reports(sibling, Ended)[0]) < bench.told.index(gone)

    kit.drive(scenario, folder, "thread")


@pytest.mark.parametrize("pool", TWO)
def test_cancelling_tells_whether_the_attempt_may_still_run_and_then_when_it_does_not(folder, pool):
    async def scenario(bench):
        running, ended = bench.hand("f:sleeps", 1000, timeout=600), await bench.run("f:fine", 1)
        await bench.started(running)
        waiting = bench.hand("f:fine", 1, alone=True)  # for a worker of its own
        assert not bench.supervisor.cancel(waiting)
        assert not bench.supervisor.cancel(ended.token)
        assert bench.supervisor.cancel(running)
        await bench.until(lambda: bench.reports(running, Gone))
        told = [bench.reports(token, Ended | Returned) for token in (running, waiting)]
        assert told == [[], []]

    kit.drive(scenario, folder, pool)


def test_at_most_two_hosts_are_retired_at_a_time(folder):
    async def scenario(bench):
        siblings, hosts = [], []
        for _ in range(3):
            siblings.append(bench.hand("f:sleeps", 1000, timeout=600))
            await bench.started(siblings[-1])
            hosts.append((await bench.run("f:sleeps", 1000, timeout=0.1)).worker)
        lost = await bench.end(siblings[0])
        assert (lost.outcome, lost.alone) == (Outcome.LOST, False)
        await bench.until(lambda: not psutil.pid_exists(hosts[0]))
        assert psutil.pid_exists(hosts[1])

    kit.drive(scenario, folder, "thread")


@pytest.mark.parametrize("pool", TWO)
@pytest.mark.parametrize("target", ["spins", "polite", "sleeps_async", "blocks_the_loop"])
def test_a_cancelled_attempt_ends_and_reports_nothing(folder, pool, target):
    async def scenario(bench):
        token = bench.hand(f"f:{target}", 1000)
        await bench.started(token)
        bench.supervisor.cancel(token)
        await bench.until(lambda: bench.supervisor.status()["pools"][pool]["running"] == 0)
        assert bench.reports(token, Ended | Returned) == []
        assert (await bench.run("f:fine", 1)).outcome is Outcome.SUCCEEDED

    kit.drive(scenario, folder, pool)


def test_no_process_has_a_sync_attempt_together_with_coroutines(folder, sign):
    async def scenario(bench):
        first, second = sign.with_suffix(".first"), sign.with_suffix(".second")
        stream = bench.hand("f:waits_async", str(first))  # then a sync attempt while it runs
        await bench.until(lambda: bench.partials(stream))
        died = await bench.run("f:exits")
        assert (died.outcome, died.alone) == (Outcome.FAILED, False)
        sync = bench.hand("f:waits_for", str(second))  # then a coroutine while that runs
        await bench.started(sync)
        another = bench.hand("f:waits_async", str(second))
        await bench.until(lambda: bench.partials(another))
        first.touch()
        assert (await bench.end(stream)).outcome is Outcome.SUCCEEDED
        second.touch()
        ends = [await bench.end(token) for token in (sync, another)]
        assert {ended.outcome for ended in ends} == {Outcome.SUCCEEDED}
        pids = {token: int(bench.partials(token)[0].data) for token in (stream, another)}
        assert len({*pids.values(), died.worker, int(ends[0].data)}) == 3
        assert bench.pids("process:async") == [pids[stream]]

    kit.drive(scenario, folder, processes=1)


def test_cancelling_what_is_over_harms_nobody(folder, sign):
    async def scenario(bench):
        old = await bench.run("f:fine", 1)
        running = bench.hand("f:waits_for", str(sign))
        await bench.started(running)
        bench.supervisor.cancel(old.token)
        bench.supervisor.cancel(12345)
        bench.supervisor.credit(old.token, 1)
        sign.touch()
        assert (await bench.end(running)).outcome is Outcome.SUCCEEDED

    kit.drive(scenario, folder, processes=1)


def test_a_cancelled_attempt_that_waits_for_its_own_worker_is_forgotten(folder):
    async def scenario(bench):
        token = bench.hand("f:fine", 1, alone=True)
        bench.supervisor.cancel(token)
        assert (await bench.run("f:fine", 1, alone=True)).outcome is Outcome.SUCCEEDED
        assert bench.reports(token, Ended | Returned) == []

    kit.drive(scenario, folder)


def test_a_kill_takes_what_the_attempt_had_started(folder):
    async def scenario(bench):
        token = bench.hand("f:hangs_with_a_child")
        [said] = await bench.until(lambda: bench.partials(token))
        child = json.loads(said.data)["progress"]
        assert psutil.pid_exists(child)
        bench.supervisor.cancel(token)
        await bench.until(lambda: not psutil.pid_exists(child))

    kit.drive(scenario, folder)


@pytest.mark.parametrize("pool", TWO)
def test_an_idle_worker_that_is_killed_is_replaced(folder, pool):
    async def scenario(bench):
        for _ in range(3):
            pid = (await bench.run("f:who")).worker
            os.kill(pid, signal.SIGKILL)
            await bench.until(lambda gone=pid: gone not in bench.pids() and bench.pids())
            assert (await bench.run("f:fine", 1)).outcome is Outcome.SUCCEEDED

    kit.drive(scenario, folder, pool)


@pytest.mark.parametrize("pool", TWO)
def test_sigterm_and_sigint_to_a_worker_do_not_end_it(folder, pool, sign):
    async def scenario(bench):
        token = bench.hand("f:waits_for", str(sign))
        pid = (await bench.started(token)).worker
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
        sign.touch()
        assert (await bench.end(token)).outcome is Outcome.SUCCEEDED

    kit.drive(scenario, folder, pool)


@pytest.mark.parametrize("target", ["forks", "forks_and_yields"])
def test_an_attempt_that_forks_is_answered_once_by_its_worker(folder, target):
    async def scenario(bench):
        for _ in range(5):
            ended = await bench.run(f"f:{target}")
            assert ended.data in (b'"worker"', b"true")
            assert [p.data for p in bench.partials(ended.token)] == [b"true"] * (target == "forks_and_yields")
        assert {e.worker for e in bench.told if isinstance(e, Ended)} <= set(bench.pids())

    kit.drive(scenario, folder)


def test_deaths_are_noticed_under_uvloop_too(folder):
    others = kit.children()  # of supervisors that other tests share

    async def main():
        async with kit.bench(folder) as bench:
            assert (await bench.run("f:exits")).error.message == "exited with status 3"
            assert (await bench.run("f:spins", timeout=0.1)).error.type == "Timeout"
            zygote = bench.zygote()
            os.kill(zygote, signal.SIGKILL)
            await bench.until(lambda: bench.zygote() not in (None, zygote))
            assert (await bench.run("f:segfaults")).error.message == "killed by SIGSEGV"
            assert (await bench.run("f:fine", 1)).outcome is Outcome.SUCCEEDED
            # A worker that the zygote started when it was killed is buried within two looks for strays.
            await bench.until(lambda: len(kit.children() - others) == len(bench.pids()) + 1)

    uvloop.run(main())


def test_raw_writes_to_the_descriptor_become_log_lines_and_a_flood_harms_nobody(folder, caplog):
    caplog.set_level("INFO", "busway.workers.output")

    async def scenario(bench):
        pid = (await bench.run("f:writes_raw", 1)).worker
        raw = re.compile(rf"worker {pid}( \(writes_raw run \d+\))?: raw line")
        await bench.until(lambda: any(map(raw.fullmatch, caplog.messages)))
        assert (await bench.run("f:writes_raw", 200_000)).outcome is Outcome.SUCCEEDED
        await bench.until(lambda: len(caplog.messages) >= 100)
        assert len(caplog.messages) < 2000

    kit.drive(scenario, folder)


def test_drain_lets_running_attempts_finish_and_takes_nothing_new(folder, sign):
    async def scenario(bench):
        token = bench.hand("f:waits_for", str(sign))
        await bench.started(token)
        draining = asyncio.ensure_future(bench.supervisor.drain(kit.PATIENCE))
        await asyncio.sleep(0)
        bench.hand("f:fine", 1)
        assert len(bench.waiting) == 1
        sign.touch()
        await draining
        assert bench.reports(token, Ended)[0].outcome is Outcome.SUCCEEDED
        assert bench.pids() == []

    kit.drive(scenario, folder)


@pytest.mark.parametrize("pool", TWO)
def test_what_outlasts_the_drain_is_lost(folder, pool):
    async def scenario(bench):
        tokens = [bench.hand("f:sleeps", 1000) for _ in range(2)]
        for token in tokens:
            await bench.started(token)
        await bench.supervisor.drain(0.1)
        ended = [bench.reports(token, Ended)[0] for token in tokens]
        assert {(e.outcome, e.alone) for e in ended} == {(Outcome.LOST, False)}

    kit.drive(scenario, folder, pool)


@pytest.mark.parametrize("pool", TWO)
def test_descriptors_and_processes_return_to_where_they_were(folder, pool):
    process = psutil.Process()
    others = kit.children()  # of supervisors that other tests share

    async def scenario(bench):
        await bench.run("f:fine", 1)
        await bench.until(lambda: len(bench.pids()) == (2 if pool == "process" else 1))
        workers = len(bench.pids())
        before = process.num_fds()
        for target in ["exits", "segfaults", "kills_itself"] * 3:
            await bench.run(f"f:{target}")
        await bench.run("f:spins", timeout=0.05)
        await bench.run("f:fine", 1, alone=True)
        await bench.until(lambda: len(bench.pids()) == workers and process.num_fds() == before)
        children = kit.children() - others
        assert len(children) == workers + 1
        assert not [c for c in children if c.status() == psutil.STATUS_ZOMBIE]

    kit.drive(scenario, folder, pool)  # warm: what the first event loop keeps
    before = process.num_fds()
    kit.drive(scenario, folder, pool)
    assert process.num_fds() == before
