"""How a pool's program calls its pool from an event loop."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable

Call = Callable[[str], Awaitable[object]]
"""Gives one task of `work` to the pool, by name; awaiting it returns the outcome."""

NOOP, ALONE, OTHER = 1.3, 0.5, 0.8  # seconds: no-ops, no-ops one at a time, each other task
UNDER_WAY = {"burn": 16, "wait": 128, "wait_async": 128}


async def measure(call: Call, under_way: int, others: tuple[str, ...], effort: float) -> dict[str, float]:
    """Measure no-ops with `under_way` at once and one at a time, then the other tasks."""
    await rate(call, "noop", NOOP / 4 * effort, under_way)  # warm
    found = {"noop_per_s": await rate(call, "noop", NOOP * effort, under_way)}
    found["p50_us"] = await latency(call, ALONE * effort)
    for name in others:
        found[f"{name}_per_s"] = await rate(call, name, OTHER * effort, UNDER_WAY[name])
    return found


async def rate(call: Call, name: str, seconds: float, under_way: int) -> float:
    """Return the calls a second of a number of callers; each makes its next call after the last one."""
    done, begun = 0, time.perf_counter()
    end = begun + seconds

    async def caller() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await call(name)
            done += 1

    await asyncio.gather(*(caller() for _ in range(under_way)))
    return done / (time.perf_counter() - begun)


async def latency(call: Call, seconds: float) -> float:
    """Return the median time of one no-op at a time, in microseconds."""
    taken = []
    end = time.perf_counter() + seconds
    while (begun := time.perf_counter()) < end:
        await call("noop")
        taken.append(time.perf_counter() - begun)
    return statistics.median(taken) * 1e6
