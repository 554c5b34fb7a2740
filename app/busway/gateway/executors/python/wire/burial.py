"""Bury children that the zygote left behind: the gateway is the subreaper, so they became its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

_LOOK = 1.0  # seconds between looks for strays


def reap(pid: int) -> int | None:
    """Bury a dead worker with its group; return its wait status, None if it lives or is not ours."""
    try:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
    except ChildProcessError:
        return None
    # While it is unburied its number is taken, so this hits nobody else.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    bury_group(pid)
    return status


def bury_group(group: int) -> None:
    """Bury the dead of a worker's group that became ours."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass


def children() -> set[int]:
    """Return the process ids of this process's children, dead ones too; empty where Linux does not tell."""
    found: set[int] = set()
    with contextlib.suppress(OSError):
        for thread in Path("/proc/self/task").iterdir():
            with contextlib.suppress(FileNotFoundError):  # it ended meanwhile
                found.update(map(int, (thread / "children").read_text().split()))
    return found


class Strays:
    """Descendants that outlive a zygote that died, and that left their worker's group: nobody waits for them.

    Whoever waits for a child of this process buries it at once. So a child that is dead at two looks
    in a row has nobody.
    """

    def __init__(self) -> None:
        self._dead: set[int] = set()
        self._next: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """Look for strays from now on."""
        if self._next is None:
            self._look()

    def _look(self) -> None:
        dead = {pid for pid in children() if _is_dead(pid)}
        for pid in dead & self._dead:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        self._dead = dead
        self._next = asyncio.get_running_loop().call_later(_LOOK, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._next is not None:
            self._next.cancel()
            self._next = None


def _is_dead(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False
