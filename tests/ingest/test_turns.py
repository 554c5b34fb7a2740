"""Turns of the event loop: work whose step took long waits before its next one, and other work goes on."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from busway.gateway import turns
from busway.gateway.turns import Steps, Turns


@pytest.mark.parametrize("seconds", [0.0, 1.0])
def test_work_pauses_after_a_long_step(seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    used, done = [0.0], {"large": 0, "small": 0}
    monkeypatch.setattr(turns, "time", SimpleNamespace(thread_time=lambda: used[0]))
    monkeypatch.setattr(turns, "_PAUSE", 3600.0)

    def work(name: str, each: float, steps: int) -> Steps[None]:
        for _ in range(steps):
            used[0] += each
            done[name] += 1
            yield

    def failed(problem: BaseException) -> None:
        raise problem

    async def main() -> None:
        given = Turns()
        given.start(work("large", seconds, 9), failed)
        given.start(work("small", 0.0, 99), failed)
        while done["small"] < 99:
            await asyncio.sleep(0)

    asyncio.run(main())
    assert done["large"] == (2 if seconds else 9)  # the first one is done before others wait
