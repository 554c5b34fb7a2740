"""When the gateway is killed, nothing of it lives on, whatever handler code is doing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import workers_kit as kit

pytestmark = pytest.mark.fault

GATEWAY = """
import asyncio, sys
from pathlib import Path
sys.path.insert(0, {kit!r})
import workers_kit as kit

async def main():
    async with kit.bench(Path({folder!r}), {pool!r}) as bench:
        tokens = [bench.hand(target) for target in {targets!r}]
        for token in tokens:
            await bench.started(token)
        print("running", flush=True)
        await asyncio.sleep(1000)

asyncio.run(main())
"""

CODE = """
    import re, subprocess, sys, time

    def spins(event):
        while True:
            pass

    def stuck_in_c(event):
        re.match(r"(a+)+$", "a" * 60 + "b")  # holds the interpreter for ages

    async def blocks(event):
        time.sleep(1000)

    def has_a_child(event):
        subprocess.run([sys.executable, "-c", "import time; time.sleep(1000)"])
"""


def start(tmp_path, pool, targets):
    folder = tmp_path / "handlers"
    folder.mkdir()
    kit.write(folder, f=CODE)
    source = GATEWAY.format(kit=str(Path(__file__).parent), folder=str(folder), pool=pool, targets=targets)
    return subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)


def gone(processes):
    deadline = time.monotonic() + kit.PATIENCE
    left = list(processes)
    while left and time.monotonic() < deadline:
        left = [p for p in left if not buried(p)]
        time.sleep(0.01)
    return not left


def buried(process):
    with contextlib.suppress(ChildProcessError):  # ours only if a test here has made us the subreaper
        os.waitpid(process.pid, os.WNOHANG)
    try:
        return process.status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.mark.parametrize(
    ("pool", "targets"),
    [
        ("process", ["f:spins", "f:stuck_in_c"]),
        ("process", ["f:blocks", "f:has_a_child"]),
        ("thread", ["f:spins", "f:blocks", "f:has_a_child"]),
        ("thread", ["f:stuck_in_c"]),
    ],
)
@pytest.mark.parametrize("zygote_too", [False, True])
def test_nothing_outlives_a_gateway_that_is_killed(tmp_path, pool, targets, zygote_too):
    with start(tmp_path, pool, targets) as gateway:
        assert gateway.stdout.readline() == "running\n"
        family = psutil.Process(gateway.pid).children(recursive=True)
        assert len(family) >= 2
        zygote = psutil.Process(gateway.pid).children()[0]
        if zygote_too:
            zygote.send_signal(signal.SIGSTOP)  # it cannot help then
        gateway.kill()
        assert gone(family)


def test_what_a_handler_started_ends_also_when_its_worker_ends_first(tmp_path):
    """The worker reads the end of its socket before the kernel kills its group, and its zygote is frozen."""
    folder = tmp_path / "handlers"
    folder.mkdir()
    kit.write(folder, f=CODE)
    source = GATEWAY.format(
        kit=str(Path(__file__).parent), folder=str(folder), pool="thread", targets=["f:has_a_child"]
    )
    keeps = "import os, subprocess; end = bench.supervisor._lifeline[1]; os.set_inheritable(end, True)"
    holder = f"{keeps}; subprocess.Popen(['sleep', '1000'], pass_fds=[end], stdout=subprocess.DEVNULL)"
    source = source.replace('        print("running"', f'        {holder}\n        print("running"')
    gateway = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)
    try:
        assert gateway.stdout.readline() == "running\n"
        zygote, holder = psutil.Process(gateway.pid).children()
        child = until(lambda: [each for each in family(gateway) if "sleep(1000)" in " ".join(each.cmdline())])
        others = family(gateway)
        zygote.send_signal(signal.SIGSTOP)
    finally:
        gateway.kill()
        gateway.communicate()
    try:
        assert gone(child)
    finally:
        holder.kill()
    assert gone(others)


def family(gateway):
    return psutil.Process(gateway.pid).children(recursive=True)


def until(condition):
    deadline = time.monotonic() + kit.PATIENCE
    while not (found := condition()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return found


def test_a_zygote_stuck_in_an_import_does_not_outlive_the_gateway(tmp_path):
    folder = tmp_path / "handlers"
    folder.mkdir()
    kit.write(folder, a=f"open({str(tmp_path / 'there')!r}, 'w').close()\nwhile True:\n    pass")
    source = GATEWAY.format(kit=str(Path(__file__).parent), folder=str(folder), pool="process", targets=[])
    with subprocess.Popen([sys.executable, "-c", source]) as gateway:
        while not (tmp_path / "there").exists():
            time.sleep(0.01)
        family = psutil.Process(gateway.pid).children(recursive=True)
        gateway.kill()
        assert gone(family)
