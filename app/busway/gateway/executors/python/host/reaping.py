"""Reap processes that a dead zygote left: the gateway is a subreaper, so they became its children."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

from busway.gateway.executors.python.wire.programs import children

_LOOK = 1.0  # seconds between checks for orphans


def reap(pid: int) -> int | None:
    """Reap a dead worker and its group. Return its wait status, None if it runs or is not our child."""
    try:
        if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
            return None
    except ChildProcessError:
        return None
    # It is not reaped yet, so its pid cannot have been reused.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    reap_group(pid)
    return status


def reap_group(group: int) -> None:
    """Reap the dead processes of a worker's group that became our children."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-group, os.WNOHANG)[0]:
            pass


def group_exists(group: int) -> bool:
    """Return whether a process group has a process, perhaps a dead one that is not reaped yet."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class Orphans:
    """Reaps orphans: descendants that outlive a dead zygote and have left their worker's group.

    Other code that waits for a child of this process reaps it at once. So a child that is dead at two
    successive checks is an orphan.
    """

    def __init__(self) -> None:
        self._dead: set[int] = set()
        self._next: asyncio.TimerHandle | None = None

    def watch(self) -> None:
        """Start checking for orphans."""
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
        """Stop checking."""
        if self._next is not None:
            self._next.cancel()
            self._next = None


def _is_dead(pid: int) -> bool:
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
    except ChildProcessError:
        return False
