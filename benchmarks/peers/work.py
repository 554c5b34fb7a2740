"""The tasks for the pools of every side. The supervisor gets this file as its handlers."""

from __future__ import annotations

import asyncio
import time


def noop(_event: object) -> None:
    """Return at once."""


def burn(_event: object) -> None:
    """Compute for 5 ms."""
    end = time.thread_time() + 0.005
    while time.thread_time() < end:
        pass


def wait(_event: object) -> None:
    """Wait for 10 ms."""
    time.sleep(0.01)


async def wait_async(_event: object) -> None:
    """Wait for 10 ms without holding a thread."""
    await asyncio.sleep(0.01)
