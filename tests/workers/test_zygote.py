"""The zygote dies or answers late: attempts and workers notice nothing of it."""

from __future__ import annotations

import json
import os
import signal

import psutil
import pytest
import workers_kit as kit
from busway.domain.run import Outcome

pytestmark = pytest.mark.fault

CODE = """
    import os, time

    def fine(event): return event.data

    def waits_for(event):
        while not os.path.exists(event.data):
            time.sleep(0.005)
        return os.getpid()

    def exits(event): os._exit(3)

    def sleeps(event): time.sleep(event.data)
"""


def test_the_death_of_the_zygote_is_noticed_by_nobody(folder, pool, tmp_path):
    sign = tmp_path / "sign"

    async def scenario(bench):
        token = bench.hand("t:waits_for", str(sign))
        worker = (await bench.started(token)).worker
        zygote = bench.zygote()
        os.kill(zygote, signal.SIGKILL)
        sign.touch()
        ended = await bench.end(token)
        assert (ended.outcome, ended.worker) == (Outcome.SUCCEEDED, worker)
        await bench.until(lambda: bench.zygote() not in (None, zygote))
        dead = await bench.run("t:exits")
        assert dead.error.message == "exited with status 3"
        assert (await bench.run("t:fine", 1)).outcome is Outcome.SUCCEEDED

    kit.drive(scenario, folder, pool)


def test_a_worker_that_outlived_its_zygote_is_buried_by_the_gateway(folder):
    async def scenario(bench):
        token = bench.hand("t:sleeps", 1000)
        worker = (await bench.started(token)).worker
        os.kill(bench.zygote(), signal.SIGKILL)
        os.kill(worker, signal.SIGSEGV)
        ended = await bench.end(token)
        assert ended.error.message == "killed by SIGSEGV"
        await bench.until(lambda: not psutil.pid_exists(worker))

    kit.drive(scenario, folder, processes=1)


def test_a_zygote_that_does_not_answer_is_replaced(folder, monkeypatch):
    monkeypatch.setattr("busway.gateway.executors.python.host.launcher._SPAWN_TIMEOUT", 0.5)

    async def scenario(bench):
        zygote, workers = bench.zygote(), bench.pids()
        os.kill(zygote, signal.SIGSTOP)
        for worker in workers:
            os.kill(worker, signal.SIGKILL)
        await bench.until(lambda: bench.zygote() not in (None, zygote))
        await bench.until(lambda: bench.pids() and not set(workers) & set(bench.pids()))
        assert (await bench.run("t:fine", 1)).outcome is Outcome.SUCCEEDED

    kit.drive(scenario, folder)


def test_a_worker_takes_attempts_only_when_its_process_id_is_known(tmp_path, pool):
    """The worker's word that it is ready may come before the zygote's, which the machine may hold up."""
    kit.write(
        tmp_path,
        t="""
        import os, time

        os.register_at_fork(after_in_parent=lambda: time.sleep(0.3))

        def who(event): return os.getpid()
        """,
    )

    async def scenario(bench):
        ended = await bench.run("t:who")
        assert ended.worker == json.loads(ended.data)
        assert ended.worker in bench.pids()

    kit.drive(scenario, tmp_path, pool)


def test_a_worker_is_ended_and_reaped_whose_zygote_died_before_it_reported_it(tmp_path, pool):
    kit.write(
        tmp_path,
        t=f"""
        import os, signal

        def dies_once():
            try:
                os.close(os.open({str(tmp_path / "died")!r}, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                return
            os.kill(os.getpid(), signal.SIGKILL)

        os.register_at_fork(after_in_parent=dies_once)

        def who(event): return os.getpid()
        """,
    )

    async def scenario(bench):
        ended = await bench.run("t:who")
        assert ended.outcome is Outcome.SUCCEEDED

        def left():
            known = {*bench.pids(), bench.zygote()}
            return {child.pid for child in kit.children() - others} - known

        await bench.until(lambda: not left())

    others = kit.children()  # of what other tests share
    # Nobody waits for workers that a dead zygote cannot start.
    kit.drive(scenario, tmp_path, pool, import_timeout=600.0)
