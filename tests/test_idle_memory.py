"""Memory is given back to the system when work has ended, and not before."""

from __future__ import annotations

import subprocess
import sys

import pytest
from busway.gateway.idle_memory import IdleMemory


@pytest.mark.parametrize(
    ("used", "given"),
    [
        ([0, 0.01, 0.02, 0.03], []),  # there never was work
        ([2, 4, 6, 8], []),  # the work goes on
        ([2, 2.01, 2.02, 2.03], [1]),  # it ended: once
        ([2, 2.01, 2.5, 2.51, 2.52], [1]),  # too little since
        ([2, 2.01, 3.5, 3.51, 5.5, 5.51], [1, 3, 5]),  # it ended again
    ],
)
def test_it_is_given_back_once_when_work_has_ended(used: list[float], given: list[int]) -> None:
    at = 0
    gave: list[int] = []
    idle = IdleMemory(lambda: used[at], lambda: gave.append(at))
    while at < len(used):
        idle.look()
        at += 1
    assert gave == given


CHURN = """
import os, random
from busway.gateway.idle_memory import give_back

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20

blocks = [bytes(1000) for _ in range(100_000)]
kept = blocks[::100]  # so that the heap cannot shrink at its end
del blocks
before = resident()
give_back()
print(before - resident())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_what_was_freed_among_what_is_in_use_goes_back() -> None:
    done = subprocess.run([sys.executable, "-c", CHURN], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 50  # of 100 MiB
