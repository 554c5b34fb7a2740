"""Bury children that the zygote left behind: the gateway is the subreaper, so they became its own."""

from __future__ import annotations

import contextlib
import os
import signal


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
