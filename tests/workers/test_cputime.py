"""What CPU time is told of attempts that follow one another in a thread."""

from __future__ import annotations

import time

from busway.gateway.executors.python.child.cputime import BRIEF, CpuTime, starved

BURNT = 0.02


def burn():
    end = time.thread_time() + BURNT
    while time.thread_time() < end:
        pass


def measured(cpu_time, work, *arguments):
    """Return the CPU seconds told of one attempt, and the seconds that it took."""
    since = time.monotonic_ns()
    work(*arguments)
    took = time.monotonic_ns() - since
    return cpu_time.of(since, took), took / 1e9


def test_what_computes_is_told_from_what_waits_whatever_was_before():
    cpu_time = CpuTime()
    starved()
    for work, low, high in [
        (burn, BURNT, 1.0),
        (time.sleep, 0.0, 0.01),
        (burn, BURNT, 1.0),
        (burn, BURNT, 1.0),
        (time.sleep, 0.0, 0.01),
    ]:
        cpu, took = measured(cpu_time, work, *[0.05] * (work is time.sleep))
        # Between attempts the thread is believed to compute; on a busy machine it may have waited for a CPU.
        assert low * 0.95 - starved() <= cpu <= min(high, took)
        for _ in range(50):
            measured(cpu_time, int)


def test_a_brief_attempt_computed_all_the_time():
    cpu_time = CpuTime()
    since = time.monotonic_ns()
    assert cpu_time.of(since, BRIEF - 1) == (BRIEF - 1) / 1e9


def test_it_is_never_less_than_nothing_nor_more_than_the_attempt_took():
    cpu_time = CpuTime()
    time.sleep(0.05)  # as if the attempts before had waited and were believed to compute
    cpu, took = measured(cpu_time, burn)
    assert 0 <= cpu <= took
    burn()
    since = time.monotonic_ns()
    assert cpu_time.of(since - BRIEF, BRIEF) <= BRIEF / 1e9
